// Package convert turns the messages of the API into the types of core and back.
//
// The FromProto functions expect messages that protovalidate has accepted, or that ToProto made, and check what
// protovalidate cannot: their errors are *charter.InvalidError. They leave out what the server sets (etag, create_time,
// update_time): the store knows it. A message that is converted must not be changed any more, for the record shares its
// lists and maps; what the ToProto functions give shares nothing.
package convert

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/charter"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Etag is the etag of a stored record, its revision in decimal; empty for one that is not stored.
func Etag(r charter.Record) string { return etag(charter.MetaOf(r)) }

func etag(m charter.Meta) string {
	if m.Revision == 0 {
		return ""
	}
	return strconv.FormatInt(m.Revision, 10)
}

// OwnerToProto converts an owner.
func OwnerToProto(o charter.Owner) *chartergatev1.Owner {
	return &chartergatev1.Owner{Name: o.Name, Email: o.Email}
}

// OwnerFromProto converts an owner; nil is the zero owner.
func OwnerFromProto(o *chartergatev1.Owner) charter.Owner {
	return charter.Owner{Name: o.GetName(), Email: o.GetEmail()}
}

// id gives what follows prefix in a resource name.
func id(name, prefix string) (string, error) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || rest == "" {
		return "", &charter.InvalidError{Name: name, Field: "name", Problem: fmt.Sprintf("is %q, it must be %s{id}", name, prefix)}
	}
	return rest, nil
}

// reference is id for a field that names another record and may be empty.
func reference(owner, field, name, prefix string) (string, error) {
	rest, ok := strings.CutPrefix(name, prefix)
	if name != "" && (!ok || rest == "") {
		return "", &charter.InvalidError{Name: owner, Field: field, Problem: fmt.Sprintf("is %q, it must be %s{id}", name, prefix)}
	}
	return rest, nil
}

func named(prefix, id string) string {
	if id == "" {
		return ""
	}
	return prefix + id
}

// TimeToProto converts a time; the zero time is absent.
func TimeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeFromProto(owner, field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if !t.IsValid() {
		return time.Time{}, &charter.InvalidError{Name: owner, Field: field, Problem: "is not a time between the years 1 and 9999"}
	}
	return t.AsTime(), nil
}

func durationFromProto(owner, field string, d *durationpb.Duration) (time.Duration, error) {
	if d != nil && (!d.IsValid() || d.Seconds < 0 || d.Nanos < 0 || d.Seconds >= math.MaxInt64/int64(time.Second)) {
		return 0, &charter.InvalidError{Name: owner, Field: field, Problem: "is not a duration of 0 to 292 years"}
	}
	return d.AsDuration(), nil
}
