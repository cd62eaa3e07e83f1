package charter

import (
	"fmt"
	"strings"
)

// ReferenceError says that a record names one that does not exist.
type ReferenceError struct{ Name, Missing string }

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("%s names %s, which does not exist: create it first, or apply both in one file", e.Name, e.Missing)
}

// CycleError says that a budget would be its own ancestor.
type CycleError struct{ Path []string }

// Cycle is the cycle in one line.
func (e *CycleError) Cycle() string { return strings.Join(e.Path, " -> ") }
func (e *CycleError) Error() string {
	return fmt.Sprintf("budgets/%s would be its own ancestor (%s): give one of them another parent", e.Path[0], e.Cycle())
}

// InUseError says that another record names a record that would go.
type InUseError struct{ Name, UsedBy string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is used by %s: change that first", e.Name, e.UsedBy)
}

// ImmutableError says that a field cannot change.
type ImmutableError struct{ Name, Field string }

func (e *ImmutableError) Error() string {
	return fmt.Sprintf("%s: %s cannot change after creation: money already counted would lose its place; create another budget", e.Name, e.Field)
}

// InvalidError says that a field of a record cannot be as it is.
type InvalidError struct{ Name, Field, Problem string }

func (e *InvalidError) Error() string { return e.Name + ": " + e.Field + " " + e.Problem }
