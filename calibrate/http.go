package calibrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Endpoint is an HTTP API that is read.
type Endpoint struct {
	URL     string        // https, or http; a token goes over http to this machine only
	Token   string        // bearer token; empty for none
	Timeout time.Duration // of one request; 0 for a minute
}

const (
	maxResponse    = 64 << 20
	defaultTimeout = time.Minute
)

// client makes an HTTP client that sends the token, follows no redirect and reads at most maxResponse of an answer.
func (e *Endpoint) client(what string) (*http.Client, *url.URL, error) {
	u, err := url.Parse(e.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, nil, fmt.Errorf("the address of %s must be such as http://localhost:9090", what)
	case u.User != nil:
		return nil, nil, fmt.Errorf("the address of %s names a user: give a bearer token instead", what)
	case e.Token != "" && u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, nil, fmt.Errorf("the token of %s would go to %s unencrypted: use https, or a port forward to this machine", what, u.Host)
	case strings.ContainsFunc(e.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, nil, fmt.Errorf("the token of %s must be one word of printable ASCII", what)
	}
	timeout := e.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	return &http.Client{
		Timeout:   timeout,
		Transport: &transport{t, e.Token},
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			return fmt.Errorf("it redirects to %s://%s%s: name that address, or give a token if it asks for a login", r.URL.Scheme, r.URL.Host, r.URL.Path)
		},
	}, u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

type transport struct {
	next  http.RoundTripper
	token string
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+t.token)
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limited{resp.Body, maxResponse}
	return resp, nil
}

var errTooLong = fmt.Errorf("the answer is longer than %d MiB: ask for a shorter window", maxResponse>>20)

type limited struct {
	io.ReadCloser
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p[:min(len(p), l.left+1)])
	if l.left -= n; l.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// unreachable says in plain words why there is no answer.
func unreachable(what string, u *url.URL, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		if e.Timeout() && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s at %s did not answer in time: ask for a shorter window, or give it longer", what, u.Host)
		}
		err = e.Err
	}
	return fmt.Errorf("%s at %s: %w", what, u.Host, err)
}

// status says what an HTTP status other than 200 means.
func status(what string, u *url.URL, code int, body string) error {
	hint := ""
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		hint = ": give it a token that may read"
	case http.StatusNotFound:
		hint = ": is " + u.Path + " the right path?"
	default:
		if body = strings.Join(strings.Fields(body), " "); body != "" {
			hint = ": " + body[:min(len(body), 200)]
		}
	}
	return fmt.Errorf("%s at %s answers %d %s%s", what, u.Host, code, http.StatusText(code), hint)
}
