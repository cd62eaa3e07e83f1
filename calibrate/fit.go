package calibrate

import (
	"fmt"
	"math"
)

// Methods of a fit.
const (
	Regression = "regression" // least squares of busy time on input and output tokens, neither below 0, no constant
	FixedRatio = "ratio"      // one output token taken for as much as some input tokens
)

// What a regression must have to be believed.
const (
	leastSteps    = 12
	leastR2       = 0.5
	mostCollinear = 30 // condition number of the scaled columns; Belsley, Kuh and Welsch (1980) call more harmful
)

// Fit is the GPU time that tokens take.
type Fit struct {
	Method string `json:"method"`
	Why    string `json:"why,omitempty"` // why it is not the regression
	// GPU-seconds per 1,000 tokens, so that the steps' busy time is met.
	Input  float64 `json:"gpu_seconds_per_1k_input"`
	Output float64 `json:"gpu_seconds_per_1k_output"`
	// Two standard errors below and above, of the regression.
	InputRange  *[2]float64 `json:"input_range,omitempty"`
	OutputRange *[2]float64 `json:"output_range,omitempty"`
	R2          *float64    `json:"r2,omitempty"` // share of the variance of busy time around its mean
	Steps       int         `json:"steps"`
	Unused      int         `json:"unused_steps"` // with a gap in a series
}

// fit gives the GPU time of tokens from steps of tokens and busy GPU-seconds. Where the steps cannot tell input from
// output it takes one output token for ratio input tokens.
func fit(in, out, busy []float64, ratio float64) (Fit, error) {
	f := Fit{Method: FixedRatio, Steps: len(busy)}
	var sumIn, sumOut, sumBusy float64
	for i := range busy {
		sumIn, sumOut, sumBusy = sumIn+in[i], sumOut+out[i], sumBusy+busy[i]
	}
	if sumIn+sumOut <= 0 {
		return f, fmt.Errorf("no tokens were counted in the window")
	}
	if sumBusy <= 0 {
		return f, fmt.Errorf("the GPUs were never busy in the window, but %.0f tokens were counted: the busy time is of other GPUs", sumIn+sumOut)
	}
	a, b := f.regress(in, out, busy)
	if f.Why == "" {
		f.Method = Regression
		scale := sumBusy / (a*sumIn + b*sumOut)
		a, b = a*scale, b*scale
	} else {
		a = sumBusy / (sumIn + ratio*sumOut)
		b = ratio * a
	}
	f.Input, f.Output = a*1000, b*1000
	return f, nil
}

// regress gives GPU-seconds per token, or sets Why.
func (f *Fit) regress(x, z, y []float64) (a, b float64) {
	n := float64(len(y))
	var xx, zz, xz, xy, zy, sy float64
	for i := range y {
		xx, zz, xz = xx+x[i]*x[i], zz+z[i]*z[i], xz+x[i]*z[i]
		xy, zy, sy = xy+x[i]*y[i], zy+z[i]*y[i], sy+y[i]
	}
	if len(y) < leastSteps {
		f.Why = fmt.Sprintf("%d steps are too few, %d are needed", len(y), leastSteps)
		return 0, 0
	}
	if xx == 0 || zz == 0 {
		f.Why = "there are tokens of one kind only"
		return 0, 0
	}
	cos := xz / math.Sqrt(xx*zz)
	if condition := math.Sqrt((1 + cos) / (1 - cos)); !(condition <= mostCollinear) {
		f.Why = fmt.Sprintf("input and output tokens rise and fall together (condition number %.0f, at most %d)", condition, mostCollinear)
		return 0, 0
	}
	det := xx*zz - xz*xz
	a, b = (zz*xy-xz*zy)/det, (xx*zy-xz*xy)/det
	if a < 0 {
		a, b = 0, zy/zz
	} else if b < 0 {
		a, b = xy/xx, 0
	}
	var left, around float64
	for i := range y {
		e, d := y[i]-a*x[i]-b*z[i], y[i]-sy/n
		left, around = left+e*e, around+d*d
	}
	if around == 0 {
		f.Why = "the busy time is the same in every step"
		return 0, 0
	}
	r2 := 1 - left/around
	f.R2 = &r2
	variance := left / (n - 2)
	ea, eb := 2*math.Sqrt(variance*zz/det), 2*math.Sqrt(variance*xx/det)
	f.InputRange, f.OutputRange = &[2]float64{max(0, a-ea) * 1000, (a + ea) * 1000}, &[2]float64{max(0, b-eb) * 1000, (b + eb) * 1000}
	switch {
	case r2 < leastR2:
		f.Why = fmt.Sprintf("tokens explain %.0f%% of the variance of busy time, at least %.0f%% are needed", 100*max(0, r2), 100*leastR2)
	case a-ea <= 0:
		f.Why = "the time of input tokens cannot be told from none"
	case b-eb <= 0:
		f.Why = "the time of output tokens cannot be told from none"
	}
	return a, b
}
