package server

import (
	"encoding/base64"
	"sort"
	"strings"

	"github.com/chartergate/chartergate/core/charter"
)

const defaultPageSize = 100

// page cuts a page out of rows, which are in the order of their names. A token holds the name of the last row that was
// given, so that rows which come or go between pages neither repeat nor hide others. Error: INVALID for a token that is
// not of this collection.
func page[R charter.Record](rows []R, collection string, size int32, token string) ([]R, string, error) {
	return pageBy(rows, func(r R) string { return r.Name() }, collection, size, token)
}

// pageBy is page for rows in the order of another key, which starts with collection too.
func pageBy[R any](rows []R, key func(R) string, collection string, size int32, token string) ([]R, string, error) {
	if size == 0 {
		size = defaultPageSize
	}
	if token != "" {
		last, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || !strings.HasPrefix(string(last), collection) {
			return nil, "", invalid("page_token", "is not one that this method gave: send next_page_token of the last response, or none to start again")
		}
		rows = rows[sort.Search(len(rows), func(i int) bool { return key(rows[i]) > string(last) }):]
	}
	if len(rows) <= int(size) {
		return rows, "", nil
	}
	rows = rows[:size]
	return rows, base64.RawURLEncoding.EncodeToString([]byte(key(rows[size-1]))), nil
}
