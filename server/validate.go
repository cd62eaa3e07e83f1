package server

import (
	"fmt"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Validator checks messages against the rules in the protos. It is safe for concurrent use.
type Validator struct{ rules protovalidate.Validator }

// NewValidator compiles the rules of every request, so that no call pays for it.
func NewValidator() (*Validator, error) {
	var warm []protoreflect.MessageDescriptor
	for _, file := range []protoreflect.FileDescriptor{
		chartergatev1.File_chartergate_v1_budget_proto,
		chartergatev1.File_chartergate_v1_catalog_proto,
		chartergatev1.File_chartergate_v1_charter_proto,
		chartergatev1.File_chartergate_v1_lease_proto,
		chartergatev1.File_chartergate_v1_manifest_proto,
		chartergatev1.File_chartergate_v1_policy_proto,
		chartergatev1.File_chartergate_v1_preflight_proto,
		chartergatev1.File_chartergate_v1_price_proto,
		chartergatev1.File_chartergate_v1_usage_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				warm = append(warm, methods.Get(j).Input())
			}
		}
	}
	rules, err := protovalidate.New(protovalidate.WithMessageDescriptors(warm...))
	if err != nil {
		return nil, fmt.Errorf("compile the rules of the API: %w", err)
	}
	return &Validator{rules}, nil
}

// Validate checks a message. Of an update with a field mask only the name of the resource is checked here: the rest is
// checked once it is whole. The error maps to INVALID, naming every field.
func (v *Validator) Validate(m proto.Message) error {
	if surelyValid(m) {
		return nil
	}
	if masked(m) {
		return v.rules.Validate(m, protovalidate.WithFilter(nameOnly))
	}
	return v.rules.Validate(m)
}

var nameOnly = protovalidate.FilterFunc(func(_ protoreflect.Message, d protoreflect.Descriptor) bool {
	field, ok := d.(protoreflect.FieldDescriptor)
	if !ok {
		return true
	}
	switch field.ContainingMessage().FullName() {
	case "chartergate.v1.Budget", "chartergate.v1.Charter":
		return field.Name() == "name"
	}
	return true
})

func masked(m proto.Message) bool {
	u, ok := m.(interface{ GetUpdateMask() *fieldmaskpb.FieldMask })
	return ok && !wholeMask(u.GetUpdateMask())
}
