# Cohorts that a policy keeps itself: lists of keys, such as users, by name.
package chartergate.lib.cohorts

# includes(lists, name, key) holds if the list of that name has the key.
includes(lists, name, key) if key in lists[name]

# of(lists, key) is the set of the names whose lists have the key.
of(lists, key) := {name | some name, list in lists; key in list}
