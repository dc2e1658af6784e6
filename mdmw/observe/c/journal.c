/* Request ids and journals: mdmw.observe.ids, and Journal in mdmw.observe.recording. */

#include "observe.h"

#include <time.h>

enum { ID_LENGTH = 40, ID_DIGITS = 12, ID_PREFIX = ID_LENGTH - ID_DIGITS };

static PyObject *empty_text, *empty_mapping, *empty_tuple, *none;
static PyObject *ids; /* the module mdmw.observe.ids */
static PyObject *begin;

static double
seconds_of(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double
now(void)
{
    return seconds_of(CLOCK_MONOTONIC); /* as time.perf_counter */
}

/* --- request ids ----------------------------------------------------------------------- */

static char id_prefix[ID_PREFIX];
static long long id_number, id_first, id_end; /* the next one, and between which; 0 before the first */

PyObject *
forget_ids(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    id_number = 0;
    Py_RETURN_NONE;
}

static int
start_ids(void)
{
    PyObject *begun = PyObject_CallMethodNoArgs(ids, begin);
    const char *prefix;
    Py_ssize_t length;
    int is_good = 0;

    if (begun == NULL)
        return -1;
    if (PyArg_ParseTuple(begun, "s#LLL", &prefix, &length, &id_number, &id_first, &id_end)) {
        is_good = length == ID_PREFIX;
        if (is_good)
            memcpy(id_prefix, prefix, ID_PREFIX);
        else
            PyErr_SetString(PyExc_ValueError, "the prefix of request ids has another length");
    }
    Py_DECREF(begun);
    return is_good ? 0 : -1;
}

static PyObject *
new_request_id(void)
{
    PyObject *id;
    char *text;
    long long rest;

    if (id_number == 0 && start_ids() < 0)
        return NULL;
    rest = id_number++;
    if (id_number == id_end)
        id_number = id_first;
    id = PyUnicode_New(ID_LENGTH, 'z');
    if (id == NULL)
        return NULL;
    text = PyUnicode_DATA(id);
    memcpy(text, id_prefix, ID_PREFIX);
    for (int i = ID_LENGTH; i-- > ID_PREFIX; rest /= 10)
        text[i] = (char)('0' + rest % 10);
    return id;
}

/* --- Journal ------------------------------------------------------------------------- */

Journal *
journal_begin(PyObject *method, PyObject *target)
{
    Journal *journal = PyObject_New(Journal, &JournalType);

    if (journal == NULL)
        return NULL;
    memset((char *)journal + sizeof(PyObject), 0, offsetof(Journal, few) - sizeof(PyObject));
    journal->began = journal->last = now();
    journal->method = Py_NewRef(method);
    journal->target = Py_NewRef(target);
    journal->observers = Py_NewRef(empty_tuple);
    journal->room = FEW_STAGES;
    journal->stages = journal->few;
    journal->request_id = new_request_id();
    if (journal->request_id == NULL) {
        Py_DECREF(journal);
        return NULL;
    }
    return journal;
}

Journal *
journal_of(PyObject *object)
{
    if (Py_IS_TYPE(object, &JournalType))
        return (Journal *)object;
    PyErr_Format(PyExc_TypeError, "a Journal is needed, not %R", object);
    return NULL;
}

static PyObject *
journal_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"method", "target", NULL};
    PyObject *method, *target;

    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UU:Journal", names, &method, &target))
        return NULL;
    return (PyObject *)journal_begin(method, target);
}

static void
forget_stages(Journal *journal)
{
    for (Py_ssize_t i = 0; i < journal->count; i++)
        Py_DECREF(journal->stages[i].name);
    journal->count = 0;
}

static void
journal_dealloc(Journal *journal)
{
    forget_stages(journal);
    if (journal->stages != journal->few)
        PyMem_Free(journal->stages);
    Py_XDECREF(journal->method);
    Py_XDECREF(journal->target);
    Py_XDECREF(journal->request_id);
    Py_XDECREF(journal->observers);
    Py_XDECREF(journal->source);
    Py_XDECREF(journal->instance);
    Py_XDECREF(journal->peer);
    Py_XDECREF(journal->cache);
    Py_XDECREF(journal->error);
    Py_XDECREF(journal->notes);
    Py_XDECREF(journal->trace);
    Py_XDECREF(journal->parent_span);
    PyObject_Free(journal);
}

/* --- stages --------------------------------------------------------------------------- */

static int
make_room(Journal *journal)
{
    Py_ssize_t room = journal->room * 2;
    Stage *stages = PyMem_New(Stage, room);

    if (stages == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(stages, journal->stages, journal->count * sizeof(Stage));
    if (journal->stages != journal->few)
        PyMem_Free(journal->stages);
    journal->stages = stages;
    journal->room = room;
    return 0;
}

static int
add_stage(Journal *journal, PyObject *name, double seconds)
{
    if (!PyUnicode_Check(name)) {
        PyErr_SetString(PyExc_TypeError, "the name of a stage is a str");
        return -1;
    }
    for (Py_ssize_t i = 0; i < journal->count; i++)
        if (journal->stages[i].name == name || PyUnicode_Compare(journal->stages[i].name, name) == 0) {
            journal->stages[i].seconds += seconds;
            return 0;
        }
    if (journal->count == journal->room && make_room(journal) < 0)
        return -1;
    journal->stages[journal->count++] = (Stage){Py_NewRef(name), seconds};
    return 0;
}

static PyObject *
journal_ended(Journal *journal, PyObject *name)
{
    double at = now();

    if (add_stage(journal, name, at - journal->last) < 0)
        return NULL;
    journal->last = at;
    Py_RETURN_NONE;
}

static PyObject *
get_stages(Journal *journal, void *closure)
{
    PyObject *stages = PyDict_New();

    (void)closure;
    for (Py_ssize_t i = 0; stages != NULL && i < journal->count; i++) {
        PyObject *seconds = PyFloat_FromDouble(journal->stages[i].seconds);

        if (seconds == NULL || PyDict_SetItem(stages, journal->stages[i].name, seconds) < 0)
            Py_CLEAR(stages);
        Py_XDECREF(seconds);
    }
    return stages;
}

static int
set_stages(Journal *journal, PyObject *stages, void *closure)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;

    (void)closure;
    if (stages == NULL || !PyDict_Check(stages)) {
        PyErr_SetString(PyExc_TypeError, "stages are a dict");
        return -1;
    }
    forget_stages(journal);
    while (PyDict_Next(stages, &at, &name, &value)) {
        double seconds = PyFloat_AsDouble(value);

        if ((seconds == -1.0 && PyErr_Occurred()) || add_stage(journal, name, seconds) < 0)
            return -1;
    }
    return 0;
}

/* --- when it is over ------------------------------------------------------------------ */

void
journal_close(Journal *journal)
{
    journal->seconds = now() - journal->began;
    journal->time = seconds_of(CLOCK_REALTIME) - journal->seconds;
}

static PyObject *
journal_close_of(Journal *journal, PyObject *nothing)
{
    (void)nothing;
    journal_close(journal);
    Py_RETURN_NONE;
}

/* --- attributes -------------------------------------------------------------------------- */

/* One that most requests leave as it is: NULL stands for `*unset`. */
typedef struct {
    size_t offset;
    PyObject **unset;
} Attribute;

static PyObject *
get(PyObject *journal, void *closure)
{
    const Attribute *attribute = closure;
    PyObject *value = *(PyObject **)((char *)journal + attribute->offset);

    return Py_NewRef(value ? value : *attribute->unset);
}

static int
set(PyObject *journal, PyObject *value, void *closure)
{
    const Attribute *attribute = closure;
    PyObject *unset = *attribute->unset;
    PyTypeObject *type = unset == empty_mapping ? &PyDict_Type : Py_TYPE(unset);

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "nothing of a journal can be deleted");
        return -1;
    }
    if (unset != Py_None && !PyObject_TypeCheck(value, type)) {
        PyErr_Format(PyExc_TypeError, "a %s is needed, not %R", type->tp_name, value);
        return -1;
    }
    Py_XSETREF(*(PyObject **)((char *)journal + attribute->offset), value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

#define ATTRIBUTE(name, unset) {#name, get, set, NULL, &(Attribute){offsetof(Journal, name), &unset}}

static PyGetSetDef attributes[] = {
    ATTRIBUTE(method, empty_text),
    ATTRIBUTE(target, empty_text),
    ATTRIBUTE(request_id, empty_text),
    ATTRIBUTE(observers, empty_tuple),
    ATTRIBUTE(source, none),
    ATTRIBUTE(instance, none),
    ATTRIBUTE(peer, empty_text),
    ATTRIBUTE(cache, empty_text),
    ATTRIBUTE(error, empty_text),
    ATTRIBUTE(notes, empty_mapping),
    ATTRIBUTE(trace, none),
    ATTRIBUTE(parent_span, empty_text),
    {"stages", (getter)get_stages, (setter)set_stages, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"began", T_DOUBLE, offsetof(Journal, began), 0, NULL},
    {"time", T_DOUBLE, offsetof(Journal, time), 0, NULL},
    {"seconds", T_DOUBLE, offsetof(Journal, seconds), 0, NULL},
    {"sent", T_LONGLONG, offsetof(Journal, sent), 0, NULL},
    {"status", T_INT, offsetof(Journal, status), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef methods[] = {
    {"ended", (PyCFunction)journal_ended, METH_O, NULL},
    {"close", (PyCFunction)journal_close_of, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject JournalType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.Journal",
    .tp_basicsize = sizeof(Journal),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = journal_new,
    .tp_dealloc = (destructor)journal_dealloc,
    .tp_getset = attributes,
    .tp_members = members,
    .tp_methods = methods,
};

int
journal_prepare(void)
{
    PyObject *nothing = PyDict_New();

    none = Py_None;
    empty_mapping = nothing == NULL ? NULL : PyDictProxy_New(nothing);
    Py_XDECREF(nothing);
    empty_tuple = PyTuple_New(0);
    empty_text = PyUnicode_InternFromString("");
    begin = PyUnicode_InternFromString("begin");
    ids = PyImport_ImportModule("mdmw.observe.ids");
    return PyErr_Occurred() ? -1 : PyType_Ready(&JournalType);
}
