package manifest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
)

const (
	durationName  = protoreflect.FullName("google.protobuf.Duration")
	timestampName = protoreflect.FullName("google.protobuf.Timestamp")
)

// isScalar says whether a message is written as one value.
func isScalar(m protoreflect.MessageDescriptor) bool {
	return m.FullName() == durationName || m.FullName() == timestampName
}

// scalar reads the text of one value. Its errors go after the field's name.
func scalar(s string, f protoreflect.FieldDescriptor, u unit) (protoreflect.Value, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		s, err := resourceName(s, f)
		return protoreflect.ValueOfString(s), err
	case protoreflect.BoolKind:
		if s != "true" && s != "false" {
			return protoreflect.Value{}, fmt.Errorf("%q is neither true nor false", s)
		}
		return protoreflect.ValueOfBool(s == "true"), nil
	case protoreflect.Int64Kind:
		n, err := number(s, u, 64)
		return protoreflect.ValueOfInt64(n), err
	case protoreflect.Int32Kind:
		n, err := number(s, u, 32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.EnumKind:
		return enum(s, f.Enum())
	case protoreflect.MessageKind:
		if f.Message().FullName() == durationName {
			return duration(s)
		}
		return timestamp(s)
	}
	return protoreflect.Value{}, fmt.Errorf("fields of type %v cannot be written in a manifest", f.Kind())
}

func number(s string, u unit, bits int) (int64, error) {
	switch u {
	case currency:
		n, err := money.Parse(s)
		return int64(n), err
	case permille:
		return percent(s, 10, bits)
	case ppm:
		return percent(s, 10_000, bits)
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, bits)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%s does not fit %d bits", s, bits)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}

// percent reads a share such as `12.5%`; one per cent is `one`.
func percent(s string, one int64, bits int) (int64, error) {
	decimal, ok := strings.CutSuffix(s, "%")
	if !ok {
		return 0, fmt.Errorf("%q is not a share such as 80%%", s)
	}
	p, err := money.Parse(decimal)
	if err != nil {
		return 0, fmt.Errorf("%q is not a share such as 80%%", s)
	}
	if whole := int64(money.Unit) / one; int64(p)%whole != 0 {
		return 0, fmt.Errorf("%s is finer than %s%%", s, money.Nanos(whole))
	} else if n := int64(p) / whole; bits == 64 || n == int64(int32(n)) {
		return n, nil
	}
	return 0, fmt.Errorf("%s does not fit %d bits", s, bits)
}

func enum(s string, e protoreflect.EnumDescriptor) (protoreflect.Value, error) {
	var known []string
	for i := 1; i < e.Values().Len(); i++ {
		v := e.Values().Get(i)
		if short := shortEnum(v); strings.EqualFold(s, short) || strings.EqualFold(s, string(v.Name())) {
			return protoreflect.ValueOfEnum(v.Number()), nil
		} else {
			known = append(known, short)
		}
	}
	return protoreflect.Value{}, fmt.Errorf("unknown value %q: write %s", s, list(known))
}

// shortEnum is the name of a value without what all values of its enum start with, in lower case.
func shortEnum(v protoreflect.EnumValueDescriptor) string {
	e := v.Parent().(protoreflect.EnumDescriptor)
	prefix := strings.TrimSuffix(string(e.Values().ByNumber(0).Name()), "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
}

func duration(s string) (protoreflect.Value, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return protoreflect.Value{}, fmt.Errorf("%q is not a duration such as 90s, 15m or 24h", s)
	}
	return protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()), nil
}

func timestamp(s string) (protoreflect.Value, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t, err = time.Parse(time.DateOnly, s)
	}
	if err != nil {
		return protoreflect.Value{}, fmt.Errorf("%q is neither a time such as 2026-01-31T12:00:00Z nor a date such as 2026-01-31", s)
	}
	return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), nil
}

var (
	id     = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	policy = regexp.MustCompile(`^(routing|(team|feature)\.[a-z0-9][a-z0-9-]{0,62})$`)
)

// resourceName completes a bare id where f is the name of a resource or refers to one. Other text stays as it is.
func resourceName(s string, f protoreflect.FieldDescriptor) (string, error) {
	prefix := ""
	if slices.Contains(references, f.FullName()) {
		prefix = "budgets/"
	} else if f.Name() == "name" {
		for _, k := range kinds {
			if m := resourceFields.ByName(protoreflect.Name(k.field)).Message(); m == f.Parent() {
				prefix = k.prefix
			}
		}
	}
	if prefix == "" {
		return s, nil
	}
	bare := strings.TrimPrefix(s, prefix)
	if prefix == "policies/" {
		if !policy.MatchString(bare) {
			return "", fmt.Errorf("%q is not a policy: write routing for the organisation's, team.TEAM or feature.FEATURE", s)
		}
	} else if !id.MatchString(bare) {
		return "", fmt.Errorf("%q is not a name: write %sID or the ID alone, 1 to 63 of a-z, 0-9 and -, starting with a letter", s, prefix)
	}
	return prefix + bare, nil
}
