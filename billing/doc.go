// Package billing reads the bills of providers: FOCUS, AWS cost and usage reports, Azure and Google Cloud exports. It
// streams: memory does not grow with the file. It writes nothing.
package billing
