package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/manifest"
	"github.com/chartergate/chartergate/prices"
	"github.com/chartergate/chartergate/proto/convert"
)

// priceList finds prices by names as in requests and responses.
type priceList interface {
	For(provider, model string, t pricing.Terms) (*pricing.Price, error)
}

// loadPrices reads a price list of any format; the one in the binary where file is empty.
func loadPrices(file string) (*priceNames, error) {
	if file == "" {
		book, err := prices.Seed()
		return &priceNames{list: book}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, prices.MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > prices.MaxFile {
		return nil, fmt.Errorf("%s has more than %d MiB", file, prices.MaxFile>>20)
	}
	text := bytes.TrimLeft(data, " \t\r\n\ufeff")
	if bytes.HasPrefix(text, []byte("[")) || bytes.HasPrefix(text, []byte("{")) && !manifestJSON.Match(text[:min(len(text), 4096)]) {
		book, err := prices.Parse(file, "", data)
		if err != nil {
			return nil, err
		}
		return &priceNames{list: book}, nil
	}
	resources, err := manifest.Parse(file, data)
	if err != nil {
		return nil, err
	}
	var list []*pricing.Price
	for _, r := range resources {
		b := r.GetPriceBook()
		if b == nil {
			continue
		}
		book, err := convert.PriceBookFromProto(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, book.Prices...)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no price book", file)
	}
	book, err := pricing.NewBook(list)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &priceNames{list: bookPrices{book}}, nil
}

var manifestJSON = regexp.MustCompile(`^\{\s*"kind"\s*:`)

// bookPrices are price books as the server has them: models are of no provider.
type bookPrices struct{ *pricing.Book }

func (b bookPrices) For(_, model string, t pricing.Terms) (*pricing.Price, error) {
	return b.Book.For(model, t)
}

// priceNames finds models whose names a price list does not have as such.
type priceNames struct {
	list  priceList
	mu    sync.RWMutex
	known map[[2]string]knownName
}

type knownName struct {
	name string
	err  error
}

const maxKnownNames = 10_000

func (n *priceNames) find(provider, model string, t pricing.Terms) (*pricing.Price, error) {
	key := [2]string{provider, model}
	n.mu.RLock()
	known, ok := n.known[key]
	n.mu.RUnlock()
	if ok && known.err != nil {
		return nil, known.err
	}
	if ok {
		return n.list.For(provider, known.name, t)
	}
	var first error
	for i, name := range namesOf(provider, model) {
		price, err := n.list.For(provider, name, t)
		if missing(err) {
			if i == 0 {
				first = err
			}
			continue
		}
		n.remember(key, knownName{name: name})
		return price, err
	}
	if errors.As(first, new(*prices.NotFoundError)) {
		n.remember(key, knownName{err: first})
	}
	return nil, first
}

func (n *priceNames) remember(key [2]string, k knownName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil || len(n.known) >= maxKnownNames {
		n.known = map[[2]string]knownName{}
	}
	n.known[[2]string{strings.Clone(key[0]), strings.Clone(key[1])}] = k
}

// missing says that a list does not have a model at all.
func missing(err error) bool {
	if errors.As(err, new(*prices.NotFoundError)) {
		return true
	}
	e, ok := errors.AsType[*pricing.UnpricedError](err)
	return ok && e.Unit == ""
}

var (
	compactDate = regexp.MustCompile(`-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\b`)
	bedrockArea = regexp.MustCompile(`^(us|eu|apac|jp|au|ca|sa|me|global|us-gov)\.`)
)

// namesOf gives the names by which a list may know a model, its own first: paths such as `publishers/google/models/M` and
// ARNs end in it, `M@20250514` is Vertex AI's for `M-20250514`, and a fine-tuned `ft:M:…` is priced as M where the list has
// no price of its own.
func namesOf(provider, model string) []string {
	names := []string{model}
	add := func(name string, changed bool) {
		if changed && name != "" {
			names = append(names, name)
		}
	}
	base := model
	if tuned, ok := strings.CutPrefix(base, "ft:"); ok {
		base, _, _ = strings.Cut(tuned, ":")
		add(base, true)
	}
	if i := strings.LastIndexByte(base, '/'); i >= 0 {
		if strings.HasPrefix(base, "arn:") || strings.Contains(base[:i+1], "models/") || strings.EqualFold(base[:i], provider) {
			base = base[i+1:]
			add(base, true)
		}
	}
	if at := strings.Replace(base, "@", "-", 1); at != base {
		base = at
		add(base, true)
	}
	dashed := compactDate.ReplaceAllString(base, "-$1-$2-$3")
	add(dashed, dashed != base)
	if provider == "aws" {
		local := bedrockArea.ReplaceAllString(base, "")
		add(local, local != base)
	}
	return names
}
