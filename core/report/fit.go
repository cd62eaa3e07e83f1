package report

import (
	"math"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// model is a least-squares fit of daily sums.
type model struct {
	method   string
	coef     []float64
	inverse  [][]float64 // of the matrix of the normal equations
	variance float64     // of the residuals
}

// terms are what the coefficients of a method are multiplied with on a day.
func (m *model) terms(i int, weekday time.Weekday) []float64 {
	var x []float64
	switch m.method {
	case MethodWeekday, MethodWeekdayLinear:
		x = make([]float64, 7, 8)
		x[weekday] = 1
	default:
		x = append(x, 1)
	}
	if m.method == MethodLinear || m.method == MethodWeekdayLinear {
		x = append(x, float64(i))
	}
	return x
}

// The fewest whole days that each method is made from.
var methods = []struct {
	name  string
	least int
	line  bool
}{{MethodMean, 3, false}, {MethodLinear, 7, true}, {MethodWeekday, 14, false}, {MethodWeekdayLinear, 21, true}}

// plainer is by how much the criterion of a method must be less than that of a plainer one: below 4 the plainer one is still
// well supported.
const plainer = 4

// fit takes the best method for days, which begin first days after the history does, to look some days ahead.
func (d *Daily) fit(first int, days []money.Nanos, ahead int) model {
	best, least := model{method: MethodRate}, math.Inf(1)
	scale := 0.0
	for _, n := range days {
		scale += math.Abs(float64(n))
	}
	n := float64(len(days))
	floor := math.Pow(max(scale/n, 1)*1e-6, 2) * n // residuals as small as this are rounding
	for _, c := range methods {
		if len(days) < c.least || c.line && ahead > len(days) {
			continue
		}
		m := model{method: c.name}
		rss, ok := m.solve(days, d.first.AddDate(0, 0, first))
		if !ok {
			continue
		}
		k := float64(len(m.coef) + 1) // and the variance
		if aicc := n*math.Log(max(rss, floor)/n) + 2*k + 2*k*(k+1)/max(n-k-1, 0.5); aicc < least-plainer {
			best, least = m, aicc
			best.variance = rss / max(n-float64(len(m.coef)), 1)
		}
	}
	return best
}

// solve fits the coefficients and gives the sum of the squared residuals. False where days do not tell all coefficients.
func (m *model) solve(days []money.Nanos, from time.Time) (rss float64, ok bool) {
	xs := make([][]float64, len(days))
	for i := range days {
		xs[i] = m.terms(i, from.AddDate(0, 0, i).Weekday())
	}
	k := len(xs[0])
	a, right := make([][]float64, k), make([]float64, k)
	for i := range a {
		a[i] = make([]float64, k)
	}
	for d, x := range xs {
		for i := range k {
			right[i] += x[i] * float64(days[d])
			for j := range k {
				a[i][j] += x[i] * x[j]
			}
		}
	}
	if m.inverse, ok = invert(a); !ok {
		return 0, false
	}
	m.coef = make([]float64, k)
	for i := range k {
		for j := range k {
			m.coef[i] += m.inverse[i][j] * right[j]
		}
	}
	for d, x := range xs {
		r := float64(days[d])
		for i := range k {
			r -= m.coef[i] * x[i]
		}
		rss += r * r
	}
	return rss, true
}

// invert inverts a matrix by Gauss and Jordan with pivots; false where it is singular.
func invert(a [][]float64) ([][]float64, bool) {
	k := len(a)
	inv := make([][]float64, k)
	for i := range inv {
		inv[i] = make([]float64, k)
		inv[i][i] = 1
	}
	for c := range k {
		pivot := c
		for r := c + 1; r < k; r++ {
			if math.Abs(a[r][c]) > math.Abs(a[pivot][c]) {
				pivot = r
			}
		}
		if math.Abs(a[pivot][c]) < 1e-9 {
			return nil, false
		}
		a[c], a[pivot], inv[c], inv[pivot] = a[pivot], a[c], inv[pivot], inv[c]
		p := a[c][c]
		for j := range k {
			a[c][j] /= p
			inv[c][j] /= p
		}
		for r := range k {
			if f := a[r][c]; r != c && f != 0 {
				for j := range k {
					a[r][j] -= f * a[c][j]
					inv[r][j] -= f * inv[c][j]
				}
			}
		}
	}
	return inv, true
}
