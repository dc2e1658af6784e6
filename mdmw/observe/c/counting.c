/* What is counted of requests: mdmw.observe.counting. */

#include "observe.h"

enum { CLASSES = 6, UNUSUAL_STATUS = 600, MOST_BOUNDS = 32, MOST_EVENTFUL = 20000, LONGEST_TARGET = 500 };

static PyObject *empty_text;
static PyObject *scope, *kind, *id; /* names of attributes */

/* --- Counters ---------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    double seconds, slowest, first, last;
    long long classes[CLASSES], durations[MOST_BOUNDS + 1];
    int bounds_count;
    double bounds[MOST_BOUNDS];
} Counters;

static Counters *
counters_new(PyObject *bounds)
{
    Counters *counters = PyObject_New(Counters, &CountersType);
    Py_ssize_t count = PyTuple_GET_SIZE(bounds);

    if (counters == NULL)
        return NULL;
    memset((char *)counters + sizeof(PyObject), 0, sizeof(Counters) - sizeof(PyObject));
    if (count > MOST_BOUNDS) {
        PyErr_Format(PyExc_ValueError, "there are at most %d bounds", MOST_BOUNDS);
        Py_CLEAR(counters);
        return NULL;
    }
    counters->bounds_count = (int)count;
    for (int i = 0; i < count; i++) {
        counters->bounds[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, i));
        if (counters->bounds[i] == -1.0 && PyErr_Occurred()) {
            Py_CLEAR(counters);
            return NULL;
        }
    }
    return counters;
}

static PyObject *
counters_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bounds", NULL};
    PyObject *bounds;

    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:Counters", names, &PyTuple_Type, &bounds))
        return NULL;
    return (PyObject *)counters_new(bounds);
}

static void
count(Counters *counters, int status, double seconds, double time)
{
    int bound = 0, is_first = 1;

    for (int i = 0; i < CLASSES; i++)
        if (counters->classes[i])
            is_first = 0;
    if (is_first)
        counters->first = time;
    counters->last = time;
    counters->classes[status >= 0 && status < UNUSUAL_STATUS ? status / 100 : 0]++;
    while (bound < counters->bounds_count && counters->bounds[bound] < seconds)
        bound++;
    counters->durations[bound]++;
    counters->seconds += seconds;
    if (seconds > counters->slowest)
        counters->slowest = seconds;
}

static PyObject *
counters_add(Counters *counters, PyObject *args)
{
    int status;
    double seconds, time;

    if (!PyArg_ParseTuple(args, "idd:add", &status, &seconds, &time))
        return NULL;
    count(counters, status, seconds, time);
    Py_RETURN_NONE;
}

static PyObject *
listed(const long long *numbers, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);

    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *number = PyLong_FromLongLong(numbers[i]);

        if (number == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static PyObject *
counters_classes(Counters *counters, void *closure)
{
    (void)closure;
    return listed(counters->classes, CLASSES);
}

static PyObject *
counters_durations(Counters *counters, void *closure)
{
    (void)closure;
    return listed(counters->durations, counters->bounds_count + 1);
}

static PyGetSetDef counters_attributes[] = {
    {"classes", (getter)counters_classes, NULL, NULL, NULL},
    {"durations", (getter)counters_durations, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef counters_members[] = {
    {"seconds", T_DOUBLE, offsetof(Counters, seconds), READONLY, NULL},
    {"slowest", T_DOUBLE, offsetof(Counters, slowest), READONLY, NULL},
    {"first", T_DOUBLE, offsetof(Counters, first), READONLY, NULL},
    {"last", T_DOUBLE, offsetof(Counters, last), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef counters_methods[] = {
    {"add", (PyCFunction)counters_add, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject CountersType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.Counters",
    .tp_basicsize = sizeof(Counters),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = counters_make,
    .tp_getset = counters_attributes,
    .tp_members = counters_members,
    .tp_methods = counters_methods,
};

/* What `dict` has under `key`, or `made` from now on, whose reference is taken over: borrowed. */
static PyObject *
found_or(PyObject *dict, PyObject *key, PyObject *made)
{
    PyObject *found = made ? PyDict_SetDefault(dict, key, made) : NULL;

    Py_XDECREF(made);
    return found;
}

static Counters *
counters_in(PyObject *dict, PyObject *key, PyObject *bounds)
{
    PyObject *found = PyDict_GetItemWithError(dict, key);

    if (found == NULL && !PyErr_Occurred())
        found = found_or(dict, key, (PyObject *)counters_new(bounds));
    return (Counters *)found;
}

/* --- ForAll ------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *bounds, *requests, *stages, *caches, *eventful;
    Known of_stage[FEW_STAGES]; /* by its name, and its place among the stages of a request */
} ForAll;

static int
for_all_begin(ForAll *self)
{
    PyObject *requests = (PyObject *)counters_new(self->bounds);
    PyObject *stages = PyDict_New(), *caches = PyDict_New(), *eventful = PyList_New(0);

    if (requests == NULL || stages == NULL || caches == NULL || eventful == NULL) {
        Py_XDECREF(requests);
        Py_XDECREF(stages);
        Py_XDECREF(caches);
        Py_XDECREF(eventful);
        return -1;
    }
    known_forget(self->of_stage, FEW_STAGES);
    Py_XSETREF(self->requests, requests);
    Py_XSETREF(self->stages, stages);
    Py_XSETREF(self->caches, caches);
    Py_XSETREF(self->eventful, eventful);
    return 0;
}

static PyObject *
for_all_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bounds", NULL};
    PyObject *bounds;
    ForAll *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:ForAll", names, &PyTuple_Type, &bounds))
        return NULL;
    self = (ForAll *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->bounds = Py_NewRef(bounds);
    if (for_all_begin(self) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
one_more(PyObject *dict, PyObject *key)
{
    PyObject *found = PyDict_GetItemWithError(dict, key), *number;
    int is_in;

    if (found == NULL && PyErr_Occurred())
        return -1;
    number = PyLong_FromLongLong(found ? PyLong_AsLongLong(found) + 1 : 1);
    is_in = number != NULL && PyDict_SetItem(dict, key, number) == 0;
    Py_XDECREF(number);
    return is_in ? 0 : -1;
}

static Counters *
counters_of_stage(ForAll *self, PyObject *name, Py_ssize_t position)
{
    Known *known = position < FEW_STAGES ? &self->of_stage[position] : NULL;
    Counters *counters;

    if (known != NULL && is_known(known, name, Py_None))
        return (Counters *)known->value;
    counters = counters_in(self->stages, name, self->bounds);
    if (known != NULL && counters != NULL)
        known_keep(known, name, Py_None, (PyObject *)counters);
    return counters;
}

static PyObject *
for_all_over(ForAll *self, PyObject *object)
{
    Journal *journal = journal_of(object);

    if (journal == NULL)
        return NULL;
    count((Counters *)self->requests, journal->status, journal->seconds, journal->time);
    for (Py_ssize_t i = 0; i < journal->count; i++) {
        Counters *counters = counters_of_stage(self, journal->stages[i].name, i);

        if (counters == NULL)
            return NULL;
        count(counters, journal->status, journal->stages[i].seconds, journal->time);
    }
    if (says_something(journal->cache) && one_more(self->caches, journal->cache) < 0)
        return NULL;
    if ((has_notes(journal) || says_something(journal->error)) && PyList_GET_SIZE(self->eventful) < MOST_EVENTFUL &&
        PyList_Append(self->eventful, object) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
for_all_take_eventful(ForAll *self, PyObject *nothing)
{
    PyObject *others = PyList_New(0), *taken;

    (void)nothing;
    if (others == NULL)
        return NULL;
    taken = self->eventful;
    self->eventful = others;
    return taken;
}

static PyObject *
for_all_forget(ForAll *self, PyObject *nothing)
{
    (void)nothing;
    if (for_all_begin(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void
for_all_dealloc(ForAll *self)
{
    known_forget(self->of_stage, FEW_STAGES);
    Py_XDECREF(self->bounds);
    Py_XDECREF(self->requests);
    Py_XDECREF(self->stages);
    Py_XDECREF(self->caches);
    Py_XDECREF(self->eventful);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef for_all_members[] = {
    {"requests", T_OBJECT_EX, offsetof(ForAll, requests), READONLY, NULL},
    {"stages", T_OBJECT_EX, offsetof(ForAll, stages), READONLY, NULL},
    {"caches", T_OBJECT_EX, offsetof(ForAll, caches), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef for_all_methods[] = {
    {"over", (PyCFunction)for_all_over, METH_O, NULL},
    {"take_eventful", (PyCFunction)for_all_take_eventful, METH_NOARGS, NULL},
    {"forget", (PyCFunction)for_all_forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ForAllType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.ForAll",
    .tp_basicsize = sizeof(ForAll),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = for_all_new,
    .tp_dealloc = (destructor)for_all_dealloc,
    .tp_members = for_all_members,
    .tp_methods = for_all_methods,
};

/* --- ForEach ----------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *bounds, *make_room, *keep, *scopes;
    Py_ssize_t most;
    Known of_source[MOST_KNOWN];
} ForEach;

static PyObject *
for_each_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bounds", "most", "make_room", "keep", NULL};
    PyObject *bounds, *make_room, *keep;
    Py_ssize_t most;
    ForEach *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!nOO:ForEach", names, &PyTuple_Type, &bounds, &most,
                                     &make_room, &keep))
        return NULL;
    self = (ForEach *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->bounds = Py_NewRef(bounds);
    self->make_room = Py_NewRef(make_room);
    self->keep = Py_NewRef(keep);
    self->most = most;
    self->scopes = PyDict_New();
    if (self->scopes == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyObject *
scopes_of_kind(ForEach *self, PyObject *which)
{
    PyObject *found = PyDict_GetItemWithError(self->scopes, which);

    if (found == NULL && !PyErr_Occurred())
        found = found_or(self->scopes, which, PyDict_New());
    return found;
}

/* The counters of a scope, for which there is made room if need be: borrowed. */
static Counters *
counters_of_scope(ForEach *self, PyObject *which, PyObject *id_)
{
    PyObject *same = scopes_of_kind(self, which), *nothing;

    if (same == NULL)
        return NULL;
    if (PyDict_GET_SIZE(same) >= self->most && PyDict_Contains(same, id_) == 0) {
        nothing = PyObject_CallOneArg(self->make_room, same);
        known_forget(self->of_source, MOST_KNOWN); /* there may be counters that are not in `scopes` any more */
        if (nothing == NULL)
            return NULL;
        Py_DECREF(nothing);
    }
    return counters_in(same, id_, self->bounds);
}

static Counters *
counters_of_source(ForEach *self, PyObject *source)
{
    Known *known = known_at(self->of_source, (uintptr_t)source, 0);
    PyObject *where, *which, *id_;
    Counters *counters;

    if (is_known(known, source, Py_None))
        return (Counters *)known->value;
    where = PyObject_GetAttr(source, scope);
    which = where ? PyObject_GetAttr(where, kind) : NULL;
    id_ = which ? PyObject_GetAttr(where, id) : NULL;
    counters = id_ ? counters_of_scope(self, which, id_) : NULL;
    if (counters != NULL)
        known_keep(known, source, Py_None, (PyObject *)counters);
    Py_XDECREF(where);
    Py_XDECREF(which);
    Py_XDECREF(id_);
    return counters;
}

static PyObject *
for_each_over(ForEach *self, PyObject *object)
{
    Journal *journal = journal_of(object);
    Counters *counters;

    if (journal == NULL)
        return NULL;
    counters = journal->source ? counters_of_source(self, journal->source)
                               : counters_of_scope(self, empty_text, empty_text);
    if (counters == NULL)
        return NULL;
    count(counters, journal->status, journal->seconds, journal->time);
    if (PyUnicode_GET_LENGTH(journal->target) > LONGEST_TARGET) {
        PyObject *beginning = PyUnicode_Substring(journal->target, 0, LONGEST_TARGET);

        if (beginning == NULL)
            return NULL;
        Py_SETREF(journal->target, beginning);
    }
    return PyObject_CallOneArg(self->keep, object);
}

static PyObject *
for_each_forget(ForEach *self, PyObject *nothing)
{
    (void)nothing;
    known_forget(self->of_source, MOST_KNOWN);
    PyDict_Clear(self->scopes);
    Py_RETURN_NONE;
}

static int
for_each_traverse(ForEach *self, visitproc visit, void *arg)
{
    Py_VISIT(self->bounds);
    Py_VISIT(self->make_room);
    Py_VISIT(self->keep);
    Py_VISIT(self->scopes);
    return 0;
}

static int
for_each_clear(ForEach *self)
{
    (void)self; /* what may refer to us breaks the cycle: we are never without what we need */
    return 0;
}

static void
for_each_dealloc(ForEach *self)
{
    PyObject_GC_UnTrack(self);
    known_forget(self->of_source, MOST_KNOWN);
    Py_XDECREF(self->bounds);
    Py_XDECREF(self->make_room);
    Py_XDECREF(self->keep);
    Py_XDECREF(self->scopes);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef for_each_members[] = {
    {"scopes", T_OBJECT_EX, offsetof(ForEach, scopes), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef for_each_methods[] = {
    {"over", (PyCFunction)for_each_over, METH_O, NULL},
    {"forget", (PyCFunction)for_each_forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ForEachType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.ForEach",
    .tp_basicsize = sizeof(ForEach),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = for_each_new,
    .tp_dealloc = (destructor)for_each_dealloc,
    .tp_traverse = (traverseproc)for_each_traverse,
    .tp_clear = (inquiry)for_each_clear,
    .tp_members = for_each_members,
    .tp_methods = for_each_methods,
};

int
counting_prepare(void)
{
    empty_text = PyUnicode_InternFromString("");
    scope = PyUnicode_InternFromString("scope");
    kind = PyUnicode_InternFromString("kind");
    id = PyUnicode_InternFromString("id");
    return PyErr_Occurred() ? -1 : 0;
}
