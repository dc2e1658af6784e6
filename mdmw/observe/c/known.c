/* A table in which each thing has one place only, where it stays until another needs it. */

#include "observe.h"

Known *
known_at(Known *table, uintptr_t first, uintptr_t second)
{
    uint64_t hash = ((uint64_t)first * 31 + (uint64_t)second) * 0x9E3779B97F4A7C15u;

    return &table[hash >> 32 & (MOST_KNOWN - 1)];
}

void
known_keep(Known *known, PyObject *first, PyObject *second, PyObject *value)
{
    Known before = *known;

    *known = (Known){Py_NewRef(first), Py_NewRef(second), Py_NewRef(value)};
    Py_XDECREF(before.first);
    Py_XDECREF(before.second);
    Py_XDECREF(before.value);
}

void
known_forget(Known *table, int count)
{
    for (int i = 0; i < count; i++) {
        Py_CLEAR(table[i].first);
        Py_CLEAR(table[i].second);
        Py_CLEAR(table[i].value);
    }
}
