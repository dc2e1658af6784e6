/* mdmw.observe._in_c: what is done for every request. Each class stands in Python too, with the words that
 * explain it: recording.py, lines.py and counting.py beside this folder. tests/observe/test_in_c.py holds
 * the two to the same.
 *
 * There are no locks: another thread has its turn only where Python code is called, or where a new object
 * lets the garbage collector do so. What belongs together is done without either in between.
 */

#ifndef MDMW_OBSERVE_H
#define MDMW_OBSERVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

enum { FEW_STAGES = 6 };

typedef struct {
    PyObject *name;
    double seconds;
} Stage;

/* Not tracked by the garbage collector: nothing that a journal refers to refers to it. Its observers may
 * keep it, and are no more its when they were told. */
typedef struct {
    PyObject_HEAD
    double began, last, time, seconds;
    long long sent;
    int status;
    PyObject *method, *target, *request_id, *observers; /* never NULL */
    /* Of these NULL is nothing, as Python's None, "" and {} are. */
    PyObject *source, *instance, *peer, *cache, *error, *notes, *trace, *parent_span;
    Py_ssize_t count, room;
    Stage *stages;
    Stage few[FEW_STAGES];
} Journal;

/* journal.c */
extern PyTypeObject JournalType;
PyObject *forget_ids(PyObject *module, PyObject *nothing);
int journal_prepare(void);
Journal *journal_begin(PyObject *method, PyObject *target); /* a new reference */
void journal_close(Journal *journal);
Journal *journal_of(PyObject *object); /* borrowed; NULL and a TypeError when it is none */

/* recording.c */
extern PyTypeObject PlaceType, RecordingType, WaitingType;
PyObject *here(PyObject *module, PyObject *nothing);
int recording_prepare(void);

/* lines.c */
extern PyTypeObject LinesType;
int lines_prepare(void);

/* counting.c */
extern PyTypeObject CountersType, ForAllType, ForEachType;
int counting_prepare(void);

/* known.c: what was found for two objects before, since the same few come again and again. */
typedef struct {
    PyObject *first, *second, *value; /* all of them, or none */
} Known;

enum { MOST_KNOWN = 512 };

Known *known_at(Known *table, uintptr_t first, uintptr_t second); /* the place for what has these hashes */
void known_keep(Known *known, PyObject *first, PyObject *second, PyObject *value);
void known_forget(Known *table, int count);

static inline int
is_known(const Known *known, const PyObject *first, const PyObject *second)
{
    return known->value != NULL && known->first == first && known->second == second;
}

static inline int
says_something(PyObject *text)
{
    return text != NULL && PyUnicode_GET_LENGTH(text) > 0;
}

static inline int
has_notes(const Journal *journal)
{
    return journal->notes != NULL && PyDict_GET_SIZE(journal->notes) > 0;
}

/* module.c: `*value` is module.name from now on. */
int import(const char *module, const char *name, PyObject **value);

#endif
