package server

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// serverSet are the fields of a resource that a client cannot change.
var serverSet = map[protoreflect.Name]bool{
	"name": true, "etag": true, "create_time": true, "update_time": true,
	"earlier_revisions": true, "shadow_revision": true, "shadow_ppm": true,
}

// wholeMask says that a mask stands for the whole resource.
func wholeMask(mask *fieldmaskpb.FieldMask) bool {
	paths := mask.GetPaths()
	return len(paths) == 0 || len(paths) == 1 && paths[0] == "*"
}

// merge gives a copy of old with the masked fields as they are in change; a whole mask gives change. Fields that the
// server sets are left out. Error: INVALID, naming an unknown path.
func merge[P proto.Message](old, change P, mask *fieldmaskpb.FieldMask) (P, error) {
	if wholeMask(mask) {
		return change, nil
	}
	merged := proto.Clone(old).(P)
	for _, path := range mask.Paths {
		if !copyPath(merged.ProtoReflect(), change.ProtoReflect(), strings.Split(path, ".")) {
			return merged, invalid("update_mask", "%q is not a field of %s: use the names of its fields, such as `labels` or `owner.name`; `*` replaces the whole",
				path, merged.ProtoReflect().Descriptor().Name())
		}
	}
	return merged, nil
}

func copyPath(to, from protoreflect.Message, path []string) bool {
	field := to.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if field == nil {
		return false
	}
	if len(path) == 1 {
		switch {
		case serverSet[field.Name()] && isResource(to.Descriptor()): // left out
		case from.Has(field):
			to.Set(field, from.Get(field))
		default:
			to.Clear(field)
		}
		return true
	}
	if field.Message() == nil || field.IsList() || field.IsMap() {
		return false
	}
	return copyPath(to.Mutable(field).Message(), from.Get(field).Message(), path[1:])
}

func isResource(m protoreflect.MessageDescriptor) bool { return m.Fields().ByName("etag") != nil }
