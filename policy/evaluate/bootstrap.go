package evaluate

import (
	"math"
	"math/rand/v2"
	"slices"
)

// replicates of the bootstrap.
const replicates = 200

// bootstrap estimates how much the two figures would differ with other cases of the same kind. Each replicate counts each
// case a number of times that is Poisson distributed with mean 1, which is drawing with replacement where the number of
// cases is not known beforehand. The seed is fixed: the same cases give the same intervals.
type bootstrap struct {
	rand   *rand.PCG
	times  [1 << 16]uint8 // by 16 random bits
	chosen [replicates]float64
	top    [replicates]float64
	solved [replicates]float64
	kept   [replicates]float64
}

func newBootstrap() *bootstrap {
	b := &bootstrap{rand: rand.NewPCG(1, 1)}
	p, k, sum := 1/math.E, 0, 1/math.E
	for i := range b.times {
		for (float64(i)+0.5)/float64(len(b.times)) > sum && k < 255 {
			k++
			p /= float64(k)
			sum += p
		}
		b.times[i] = uint8(k)
	}
	return b
}

func (b *bootstrap) add(chosen, top float64, topSolves, solved bool) {
	for i := 0; i < replicates; i += 4 {
		bits := b.rand.Uint64()
		for j := i; j < i+4; j++ {
			n := float64(b.times[bits&0xffff])
			bits >>= 16
			b.chosen[j] += n * chosen
			b.top[j] += n * top
			if topSolves {
				b.solved[j] += n
				if solved {
					b.kept[j] += n
				}
			}
		}
	}
}

// Interval is where a figure would be for 95 of 100 sets of cases of the same kind.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

func (b *bootstrap) intervals() (saved, kept Interval) {
	var s, k []float64
	for i := range replicates {
		if b.top[i] > 0 {
			s = append(s, 1-b.chosen[i]/b.top[i])
		}
		if b.solved[i] > 0 {
			k = append(k, b.kept[i]/b.solved[i])
		}
	}
	return interval(s), interval(k)
}

func interval(x []float64) Interval {
	if len(x) == 0 {
		return Interval{}
	}
	slices.Sort(x)
	return Interval{x[int(math.Round(0.025*float64(len(x)-1)))], x[int(math.Round(0.975*float64(len(x)-1)))]}
}
