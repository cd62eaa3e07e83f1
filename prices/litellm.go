package prices

import "errors"

func readLiteLLM([]byte) (*Book, error) { return nil, errors.New("not yet") }
