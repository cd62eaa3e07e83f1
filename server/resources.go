package server

import (
	"context"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	"github.com/chartergate/chartergate/store"
)

// resource is the message of a control record.
type resource interface {
	proto.Message
	GetName() string
	GetEtag() string
}

// kind is the one path on which all control records are created, read, updated and deleted: R is the record, P its
// message.
type kind[R charter.Record, P resource] struct {
	control    store.Control
	validator  *Validator
	collection string // what names start with, such as `charters/`
	toProto    func(R) P
	fromProto  func(P) (R, error)
	all        func(*charter.Snapshot) []R
	// fill sets what an empty field stands for; s is the state that the record goes into. Nil: nothing.
	fill func(s *charter.Snapshot, r R)

	sorted atomic.Pointer[sorted[R]]
}

// sorted keeps the rows of the last listed snapshot, so that paging through 100,000 records sorts them once.
type sorted[R charter.Record] struct {
	snapshot *charter.Snapshot
	rows     []R
}

// commit makes the changes of decide, or only checks them.
func commit(ctx context.Context, control store.Control, validateOnly bool, decide func(*charter.Snapshot) ([]charter.Change, error)) (*charter.Snapshot, error) {
	if !validateOnly {
		return control.Commit(ctx, decide)
	}
	s := control.Snapshot()
	changes, err := decide(s)
	if err != nil {
		return nil, err
	}
	return s.With(changes)
}

// checkEtag compares the etag that a client sent, if any, with that of the record as it is.
func checkEtag(name, sent string, current charter.Record) error {
	if etag := convert.Etag(current); sent != "" && sent != etag {
		return etagMismatch(name, sent, etag)
	}
	return nil
}

func (k *kind[R, P]) named(s *charter.Snapshot, name string) (r R, err error) {
	r, ok := s.Record(name).(R)
	if !ok {
		return r, notFound(name)
	}
	return r, nil
}

func (k *kind[R, P]) get(name string) (p P, err error) {
	r, err := k.named(k.control.Snapshot(), name)
	if err != nil {
		return p, err
	}
	return k.toProto(r), nil
}

func (k *kind[R, P]) list(size int32, token string) ([]P, string, error) {
	s, l := k.control.Snapshot(), k.sorted.Load()
	if l == nil || l.snapshot != s {
		l = &sorted[R]{s, k.all(s)}
		k.sorted.Store(l)
	}
	rows, next, err := page(l.rows, k.collection, size, token)
	if err != nil {
		return nil, "", err
	}
	list := make([]P, len(rows))
	for i, r := range rows {
		list[i] = k.toProto(r)
	}
	return list, next, nil
}

func (k *kind[R, P]) create(ctx context.Context, p P, validateOnly bool) (P, error) {
	return k.write(ctx, p.GetName(), validateOnly, func(s *charter.Snapshot) (r R, err error) {
		if s.Record(p.GetName()) != nil {
			return r, alreadyExists(p.GetName())
		}
		return k.fromProto(p)
	})
}

func (k *kind[R, P]) update(ctx context.Context, p P, mask *fieldmaskpb.FieldMask, validateOnly bool) (P, error) {
	return k.write(ctx, p.GetName(), validateOnly, func(s *charter.Snapshot) (r R, err error) {
		old, err := k.named(s, p.GetName())
		if err != nil {
			return r, err
		}
		if err := checkEtag(p.GetName(), p.GetEtag(), old); err != nil {
			return r, err
		}
		merged, err := merge(k.toProto(old), p, mask)
		if err != nil {
			return r, err
		}
		if err := k.validator.Validate(merged); err != nil {
			return r, err
		}
		return k.fromProto(merged)
	})
}

// write sets the record that decide gives. One that is equal to what is stored is left alone.
func (k *kind[R, P]) write(ctx context.Context, name string, validateOnly bool, decide func(*charter.Snapshot) (R, error)) (p P, err error) {
	next, err := commit(ctx, k.control, validateOnly, func(s *charter.Snapshot) ([]charter.Change, error) {
		r, err := decide(s)
		if err != nil {
			return nil, err
		}
		if k.fill != nil {
			k.fill(s, r)
		}
		old := s.Record(name)
		if old == nil {
			return []charter.Change{charter.Set(r)}, nil
		}
		if len(diff(k.toProto(old.(R)), k.toProto(r))) == 0 {
			return nil, nil
		}
		return []charter.Change{charter.Set(charter.WithMeta(r, charter.MetaOf(old)))}, nil
	})
	if err != nil {
		return p, err
	}
	r, err := k.named(next, name)
	if err != nil {
		return p, err
	}
	return k.toProto(r), nil
}

func (k *kind[R, P]) delete(ctx context.Context, name, etag string, validateOnly bool) error {
	_, err := commit(ctx, k.control, validateOnly, func(s *charter.Snapshot) ([]charter.Change, error) {
		old, err := k.named(s, name)
		if err != nil {
			return nil, err
		}
		if err := checkEtag(name, etag, old); err != nil {
			return nil, err
		}
		return []charter.Change{{Name: name}}, nil
	})
	return err
}
