package report

import (
	"fmt"
	"strconv"
)

// say is fmt.Sprintf for sentences: counts have their thousands apart.
func say(format string, args ...any) string {
	for i, a := range args {
		if n, ok := a.(int64); ok {
			args[i] = grouped(n)
		}
	}
	return fmt.Sprintf(format, args...)
}

type grouped int64

// Format implements fmt.Formatter.
func (g grouped) Format(f fmt.State, _ rune) {
	digits := strconv.FormatInt(int64(g), 10)
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			f.Write([]byte{','})
		}
		f.Write([]byte{digits[i]})
	}
}
