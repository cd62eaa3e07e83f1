package billing

import "github.com/chartergate/chartergate/core/bill"

// Scan reads a bill without keeping it.
func Scan(path string, o Options, each func(*bill.Line) error) (*Report, error) {
	f, err := Open(path, o)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.scan(false, each)
}
