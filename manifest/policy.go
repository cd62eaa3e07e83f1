package manifest

import (
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

var resourceFields = (&chartergatev1.Resource{}).ProtoReflect().Descriptor().Fields()

// maxModuleBytes bounds one Rego file, as the API does.
const maxModuleBytes = 256 << 10

// files reads the Rego files of a policy into its modules, by their names as written.
func (d *decoder) files(n *yaml.Node, policy protoreflect.Message) {
	if n.Kind != yaml.SequenceNode {
		d.errorf(n, "files is a list of Rego files, not %s", describe(n))
		return
	}
	modules := policy.Mutable(policy.Descriptor().Fields().ByName("modules")).Map()
	for _, item := range n.Content {
		item, ok := d.visit(item)
		if !ok {
			return
		}
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			d.errorf(item, "files is a list of Rego files; this is %s", describe(item))
			continue
		}
		if !filepath.IsLocal(item.Value) {
			d.errorf(item, "%q is outside of the manifest's folder", item.Value)
			continue
		}
		file := filepath.Join(filepath.Dir(d.file), filepath.FromSlash(item.Value))
		info, err := os.Stat(file)
		if err == nil && info.Size() > maxModuleBytes {
			d.errorf(item, "%s is larger than 256 KiB: split it", file)
			continue
		}
		var data []byte
		if err == nil {
			data, err = os.ReadFile(file)
		}
		if err != nil {
			d.errorf(item, "%v", err)
			continue
		}
		key := protoreflect.ValueOfString(filepath.ToSlash(item.Value)).MapKey()
		if modules.Has(key) {
			d.errorf(item, "the module %q is there twice", item.Value)
			continue
		}
		modules.Set(key, protoreflect.ValueOfString(string(data)))
	}
}
