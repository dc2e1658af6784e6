/* mdmw.observe.recording in C: see there for what it is all about. tests/observe/test_recording.py holds
 * the two to the same.
 *
 * Nothing here lets another thread have the interpreter, but for calls of Python.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <time.h>

enum { FEW_STAGES = 6, STATUS_DIGITS = 3, ID_LENGTH = 40, ID_DIGITS = 12, ID_PREFIX = ID_LENGTH - ID_DIGITS };

static PyObject *empty_text, *empty_mapping, *empty_tuple, *none;
static PyObject *ids; /* the module mdmw.observe.ids */
static PyObject *id_header, *begin;
static PyObject *journal_key, *source_key, *instance_key; /* of an environ, mdmw.records */
static PyObject *request_uri, *raw_uri, *path_info, *request_method, *remote_addr, *stream;
static PyObject *place_variable;

static double
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time); /* as time.perf_counter */
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* --- request ids, as in mdmw.observe.ids ------------------------------------------------ */

static char id_prefix[ID_PREFIX];
static long long id_number, id_first, id_end; /* the next one, and between which; 0 before the first */

static PyObject *
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

typedef struct {
    PyObject *stage;
    double at;
} End;

/* Not tracked by the garbage collector: nothing that a journal refers to refers to it, but for
 * observers, which live as long as the process. */
typedef struct {
    PyObject_HEAD
    double began, time, seconds;
    long long sent;
    int status;
    PyObject *method, *target, *request_id, *observers; /* never NULL */
    PyObject *source, *instance, *peer, *stages, *cache, *error, *notes, *trace, *parent_span;
    Py_ssize_t count, room;
    End *ends;
    End few[FEW_STAGES];
} Journal;

static PyTypeObject JournalType;

static Journal *
journal_begin(PyObject *method, PyObject *target)
{
    Journal *journal = PyObject_New(Journal, &JournalType);

    if (journal == NULL)
        return NULL;
    memset((char *)journal + sizeof(PyObject), 0, offsetof(Journal, few) - sizeof(PyObject));
    journal->began = now();
    journal->method = Py_NewRef(method);
    journal->target = Py_NewRef(target);
    journal->observers = Py_NewRef(empty_tuple);
    journal->room = FEW_STAGES;
    journal->ends = journal->few;
    journal->request_id = new_request_id();
    if (journal->request_id == NULL) {
        Py_DECREF(journal);
        return NULL;
    }
    return journal;
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
journal_dealloc(Journal *journal)
{
    for (Py_ssize_t i = 0; i < journal->count; i++)
        Py_DECREF(journal->ends[i].stage);
    if (journal->ends != journal->few)
        PyMem_Free(journal->ends);
    Py_XDECREF(journal->method);
    Py_XDECREF(journal->target);
    Py_XDECREF(journal->request_id);
    Py_XDECREF(journal->observers);
    Py_XDECREF(journal->source);
    Py_XDECREF(journal->instance);
    Py_XDECREF(journal->peer);
    Py_XDECREF(journal->stages);
    Py_XDECREF(journal->cache);
    Py_XDECREF(journal->error);
    Py_XDECREF(journal->notes);
    Py_XDECREF(journal->trace);
    Py_XDECREF(journal->parent_span);
    PyObject_Free(journal);
}

static int
journal_make_room(Journal *journal)
{
    Py_ssize_t room = journal->room * 2;
    End *ends = PyMem_New(End, room);

    if (ends == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(ends, journal->ends, journal->count * sizeof(End));
    if (journal->ends != journal->few)
        PyMem_Free(journal->ends);
    journal->ends = ends;
    journal->room = room;
    return 0;
}

static PyObject *
journal_ended(Journal *journal, PyObject *stage)
{
    End *end;

    if (journal->count == journal->room && journal_make_room(journal) < 0)
        return NULL;
    end = &journal->ends[journal->count++];
    end->stage = Py_NewRef(stage);
    end->at = now();
    Py_RETURN_NONE;
}

static PyObject *
journal_close(Journal *journal, PyObject *epoch)
{
    double before = journal->began;
    double of_epoch = PyFloat_AsDouble(epoch);
    PyObject *stages;

    if (of_epoch == -1.0 && PyErr_Occurred())
        return NULL;
    stages = PyDict_New();
    if (stages == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < journal->count; i++) {
        End *end = &journal->ends[i];
        PyObject *already = PyDict_GetItemWithError(stages, end->stage);
        PyObject *seconds;

        if (already == NULL && PyErr_Occurred())
            goto failed;
        seconds = PyFloat_FromDouble((already ? PyFloat_AS_DOUBLE(already) : 0.0) + (end->at - before));
        if (seconds == NULL)
            goto failed;
        if (PyDict_SetItem(stages, end->stage, seconds) < 0) {
            Py_DECREF(seconds);
            goto failed;
        }
        Py_DECREF(seconds);
        before = end->at;
    }
    journal->time = journal->began - of_epoch;
    Py_XSETREF(journal->stages, stages);
    Py_RETURN_NONE;
failed:
    Py_DECREF(stages);
    return NULL;
}

/* An attribute that most requests leave as it is: NULL stands for `*unset`. */
typedef struct {
    size_t offset;
    PyObject **unset;
} Attribute;

static PyObject *
journal_get(PyObject *journal, void *closure)
{
    const Attribute *attribute = closure;
    PyObject *value = *(PyObject **)((char *)journal + attribute->offset);

    return Py_NewRef(value ? value : *attribute->unset);
}

static int
journal_set(PyObject *journal, PyObject *value, void *closure)
{
    const Attribute *attribute = closure;

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "nothing of a journal can be deleted");
        return -1;
    }
    Py_XSETREF(*(PyObject **)((char *)journal + attribute->offset), Py_NewRef(value));
    return 0;
}

#define ATTRIBUTE(name, unset) \
    {#name, journal_get, journal_set, NULL, &(Attribute){offsetof(Journal, name), &unset}}

static PyGetSetDef journal_attributes[] = {
    ATTRIBUTE(method, empty_text),
    ATTRIBUTE(target, empty_text),
    ATTRIBUTE(request_id, empty_text),
    ATTRIBUTE(observers, empty_tuple),
    ATTRIBUTE(source, none),
    ATTRIBUTE(instance, none),
    ATTRIBUTE(peer, empty_text),
    ATTRIBUTE(stages, empty_mapping),
    ATTRIBUTE(cache, empty_text),
    ATTRIBUTE(error, empty_text),
    ATTRIBUTE(notes, empty_mapping),
    ATTRIBUTE(trace, none),
    ATTRIBUTE(parent_span, empty_text),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef journal_members[] = {
    {"began", T_DOUBLE, offsetof(Journal, began), 0, NULL},
    {"time", T_DOUBLE, offsetof(Journal, time), 0, NULL},
    {"seconds", T_DOUBLE, offsetof(Journal, seconds), 0, NULL},
    {"sent", T_LONGLONG, offsetof(Journal, sent), 0, NULL},
    {"status", T_INT, offsetof(Journal, status), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef journal_methods[] = {
    {"ended", (PyCFunction)journal_ended, METH_O, NULL},
    {"close", (PyCFunction)journal_close, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject JournalType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._recording.Journal",
    .tp_basicsize = sizeof(Journal),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = journal_new,
    .tp_dealloc = (destructor)journal_dealloc,
    .tp_getset = journal_attributes,
    .tp_members = journal_members,
    .tp_methods = journal_methods,
};

/* --- Place --------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *journal; /* or NULL, or None: Python writes it too */
} Place;

static void
place_dealloc(Place *place)
{
    Py_XDECREF(place->journal);
    PyObject_Free(place);
}

static PyMemberDef place_members[] = {
    {"journal", T_OBJECT, offsetof(Place, journal), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject PlaceType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._recording.Place",
    .tp_basicsize = sizeof(Place),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)place_dealloc,
    .tp_members = place_members,
};

static Place *
find_place(void)
{
    PyObject *found, *token;
    Place *place;

    if (PyContextVar_Get(place_variable, NULL, &found) < 0)
        return NULL;
    if (found != NULL)
        return (Place *)found;
    place = PyObject_New(Place, &PlaceType);
    if (place == NULL)
        return NULL;
    place->journal = NULL;
    token = PyContextVar_Set(place_variable, (PyObject *)place);
    if (token == NULL) {
        Py_DECREF(place);
        return NULL;
    }
    Py_DECREF(token);
    return place;
}

static PyObject *
here(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    return (PyObject *)find_place();
}

/* Arguments of WSGI are positional (PEP 3333). */
static int
is_refused(const char *who, PyObject *kwargs)
{
    if (kwargs == NULL || PyDict_GET_SIZE(kwargs) == 0)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s takes no keyword arguments", who);
    return 1;
}

/* --- Start: the start_response that an application gets --------------------------------- */

typedef struct {
    PyObject_HEAD
    Journal *journal;
    PyObject *start_response;
} Start;

static int
is_id_header(PyObject *header)
{
    PyObject *name;

    if (!PyTuple_Check(header) || PyTuple_GET_SIZE(header) == 0)
        return 0;
    name = PyTuple_GET_ITEM(header, 0);
    return PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) == PyUnicode_GET_LENGTH(id_header) &&
           PyUnicode_IS_ASCII(name) &&
           PyOS_stricmp(PyUnicode_DATA(name), PyUnicode_DATA(id_header)) == 0;
}

/* The headers, and the id of the request if they have none: a new reference. */
static PyObject *
with_id(PyObject *headers, PyObject *request_id)
{
    PyObject *all, *pair;

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++)
        if (is_id_header(PyList_GET_ITEM(headers, i)))
            return Py_NewRef(headers);
    pair = PyTuple_Pack(2, id_header, request_id);
    if (pair == NULL)
        return NULL;
    all = PyList_GetSlice(headers, 0, PyList_GET_SIZE(headers));
    if (all != NULL && PyList_Append(all, pair) < 0)
        Py_CLEAR(all);
    Py_DECREF(pair);
    return all;
}

static int
status_of(PyObject *text)
{
    int status = 0;

    for (Py_ssize_t i = 0; i < STATUS_DIGITS; i++) {
        Py_UCS4 digit = i < PyUnicode_GET_LENGTH(text) ? PyUnicode_READ_CHAR(text, i) : 0;

        if (digit < '0' || digit > '9') {
            PyErr_Format(PyExc_ValueError, "%R is no status: three digits come first", text);
            return -1;
        }
        status = status * 10 + (int)(digit - '0');
    }
    return status;
}

static PyObject *
start_call(Start *start, PyObject *args, PyObject *kwargs)
{
    PyObject *status, *headers, *exc_info = NULL, *all, *write;
    int number;

    if (is_refused("start_response", kwargs) ||
        !PyArg_UnpackTuple(args, "start_response", 2, 3, &status, &headers, &exc_info))
        return NULL;
    if (!PyUnicode_Check(status) || !PyList_Check(headers)) {
        PyErr_SetString(PyExc_TypeError, "start_response: the status is a str, the headers are a list");
        return NULL;
    }
    number = status_of(status);
    if (number < 0)
        return NULL;
    start->journal->status = number;
    all = with_id(headers, start->journal->request_id);
    if (all == NULL)
        return NULL;
    write = PyObject_CallFunctionObjArgs(start->start_response, status, all, exc_info, NULL);
    Py_DECREF(all);
    return write;
}

static int
start_traverse(Start *start, visitproc visit, void *arg)
{
    Py_VISIT(start->journal);
    Py_VISIT(start->start_response);
    return 0;
}

static int
start_clear(Start *start)
{
    Py_CLEAR(start->start_response); /* what may refer to us; a call needs the journal */
    return 0;
}

static void
start_dealloc(Start *start)
{
    PyObject_GC_UnTrack(start);
    Py_DECREF(start->journal);
    Py_XDECREF(start->start_response);
    PyObject_GC_Del(start);
}

static PyTypeObject StartType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._recording.Start",
    .tp_basicsize = sizeof(Start),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_call = (ternaryfunc)start_call,
    .tp_traverse = (traverseproc)start_traverse,
    .tp_clear = (inquiry)start_clear,
    .tp_dealloc = (destructor)start_dealloc,
};

static PyObject *
start_new(Journal *journal, PyObject *start_response)
{
    Start *start = PyObject_GC_New(Start, &StartType);

    if (start == NULL)
        return NULL;
    start->journal = (Journal *)Py_NewRef((PyObject *)journal);
    start->start_response = Py_NewRef(start_response);
    PyObject_GC_Track(start);
    return (PyObject *)start;
}

/* --- Recording ------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *app, *observers, *over;
} Recording;

static int
recording_init(Recording *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"app", "observers", "over", NULL};
    PyObject *app, *observers, *over;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O:Recording", names, &app, &PyTuple_Type, &observers,
                                     &over))
        return -1;
    Py_XSETREF(self->app, Py_NewRef(app));
    Py_XSETREF(self->observers, Py_NewRef(observers));
    Py_XSETREF(self->over, Py_NewRef(over));
    return 0;
}

/* The first of these values that is true, else the last: borrowed, and "" for none at all. */
static PyObject *
first_true(PyObject *environ, PyObject **keys, int count)
{
    PyObject *found = NULL;

    for (int i = 0; i < count; i++) {
        found = PyDict_GetItemWithError(environ, keys[i]);
        if (found != NULL && PyUnicode_Check(found) && PyUnicode_GET_LENGTH(found))
            return found;
        if (found == NULL && PyErr_Occurred())
            return NULL;
    }
    return empty_text;
}

/* Put what an environ has under `key` where `value` is, which was NULL. */
static int
take(PyObject **value, PyObject *environ, PyObject *key)
{
    PyObject *found = PyDict_GetItemWithError(environ, key);

    if (found == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if (found != Py_None)
        Py_XSETREF(*value, Py_NewRef(found));
    return 0;
}

static int
take_records(Journal *journal, PyObject *environ)
{
    if (take(&journal->peer, environ, remote_addr) < 0) /* hmac-verify puts the guest's here */
        return -1;
    if (take(&journal->source, environ, source_key) < 0)
        return -1;
    return take(&journal->instance, environ, instance_key);
}

static int
end(Recording *self, Journal *journal)
{
    PyObject *nothing;

    journal->seconds = now() - journal->began;
    nothing = PyObject_CallOneArg(self->over, (PyObject *)journal);
    Py_XDECREF(nothing);
    return nothing == NULL ? -1 : 0;
}

static Journal *
begin_journal(Recording *self, PyObject *environ)
{
    PyObject *targets[] = {request_uri, raw_uri, path_info};
    PyObject *target = first_true(environ, targets, 3);
    PyObject *method = target == NULL ? NULL : first_true(environ, &request_method, 1);
    Journal *journal = method == NULL ? NULL : journal_begin(method, target);

    if (journal == NULL)
        return NULL;
    Py_SETREF(journal->observers, Py_NewRef(self->observers));
    if (PyDict_SetItem(environ, journal_key, (PyObject *)journal) < 0) {
        Py_DECREF(journal);
        return NULL;
    }
    return journal;
}

/* The application has raised: tell of that, and leave its exception as it is. */
static void
fail(Recording *self, Journal *journal, PyObject *environ)
{
    PyObject *type, *error, *traceback, *name;

    PyErr_Fetch(&type, &error, &traceback);
    name = PyObject_GetAttrString(type, "__name__");
    if (name != NULL)
        Py_XSETREF(journal->error, name);
    if (name == NULL || take_records(journal, environ) < 0 || end(self, journal) < 0)
        PyErr_WriteUnraisable((PyObject *)self);
    PyErr_Restore(type, error, traceback);
}

/* The application has answered: takes over the reference to `body`, and returns what the server gets. */
static PyObject *
succeed(Recording *self, Journal *journal, PyObject *environ, PyObject *body)
{
    if (take_records(journal, environ) < 0)
        goto failed;
    if (!PyList_Check(body)) {
        PyObject *counted = PyObject_CallMethodObjArgs((PyObject *)self, stream, body, journal, NULL);

        Py_DECREF(body);
        return counted;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(body); i++) {
        Py_ssize_t size = PyObject_Size(PyList_GET_ITEM(body, i));

        if (size < 0)
            goto failed;
        journal->sent += size;
    }
    if (end(self, journal) == 0)
        return body;
failed:
    Py_DECREF(body);
    return NULL;
}

static PyObject *
observe(Recording *self, Place *place, PyObject *environ, PyObject *start_response)
{
    Journal *journal = begin_journal(self, environ);
    PyObject *start = journal == NULL ? NULL : start_new(journal, start_response);
    PyObject *body;

    if (start == NULL) {
        Py_XDECREF(journal);
        return NULL;
    }
    Py_XSETREF(place->journal, Py_NewRef((PyObject *)journal));
    body = PyObject_CallFunctionObjArgs(self->app, environ, start, NULL);
    Py_DECREF(start);
    Py_CLEAR(place->journal);
    if (body == NULL)
        fail(self, journal, environ);
    else
        body = succeed(self, journal, environ, body);
    Py_DECREF(journal);
    return body;
}

/* There is a journal already. */
static PyObject *
join(Recording *self, Journal *journal, PyObject *environ, PyObject *start_response)
{
    PyObject *all = PySequence_Concat(journal->observers, self->observers);

    if (all == NULL)
        return NULL;
    Py_SETREF(journal->observers, all);
    return PyObject_CallFunctionObjArgs(self->app, environ, start_response, NULL);
}

static PyObject *
recording_call(Recording *self, PyObject *args, PyObject *kwargs)
{
    PyObject *environ, *start_response, *answer;
    Place *place;

    if (is_refused("an application", kwargs) ||
        !PyArg_UnpackTuple(args, "an application", 2, 2, &environ, &start_response))
        return NULL;
    if (!PyDict_Check(environ)) {
        PyErr_SetString(PyExc_TypeError, "an application: the environ is a dict");
        return NULL;
    }
    if (self->over == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "an application: it was not initialised, or is being deleted");
        return NULL;
    }
    place = find_place();
    if (place == NULL)
        return NULL;
    if (place->journal != NULL && Py_IS_TYPE(place->journal, &JournalType))
        answer = join(self, (Journal *)place->journal, environ, start_response);
    else
        answer = observe(self, place, environ, start_response);
    Py_DECREF(place);
    return answer;
}

static int
recording_traverse(Recording *self, visitproc visit, void *arg)
{
    Py_VISIT(self->app);
    Py_VISIT(self->observers);
    Py_VISIT(self->over);
    return 0;
}

static int
recording_clear(Recording *self)
{
    Py_CLEAR(self->app);
    Py_CLEAR(self->observers);
    Py_CLEAR(self->over);
    return 0;
}

static void
recording_dealloc(Recording *self)
{
    PyObject_GC_UnTrack(self);
    recording_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef recording_members[] = {
    {"app", T_OBJECT_EX, offsetof(Recording, app), READONLY, NULL},
    {"observers", T_OBJECT_EX, offsetof(Recording, observers), READONLY, NULL},
    {"over", T_OBJECT_EX, offsetof(Recording, over), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject RecordingType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._recording.Recording",
    .tp_basicsize = sizeof(Recording),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)recording_init,
    .tp_call = (ternaryfunc)recording_call,
    .tp_traverse = (traverseproc)recording_traverse,
    .tp_clear = (inquiry)recording_clear,
    .tp_dealloc = (destructor)recording_dealloc,
    .tp_members = recording_members,
};

/* --- the module ------------------------------------------------------------------------ */

static PyMethodDef functions[] = {
    {"here", here, METH_NOARGS, NULL},
    {"forget_ids", forget_ids, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mdmw.observe._recording",
    .m_size = -1,
    .m_methods = functions,
};

/* `*value` is module.name from now on. */
static int
import(const char *module, const char *name, PyObject **value)
{
    PyObject *found = PyImport_ImportModule(module);

    *value = found == NULL ? NULL : PyObject_GetAttrString(found, name);
    Py_XDECREF(found);
    return *value == NULL ? -1 : 0;
}

static int
prepare(void)
{
    PyObject *nothing = PyDict_New();

    none = Py_None;
    empty_mapping = nothing == NULL ? NULL : PyDictProxy_New(nothing);
    Py_XDECREF(nothing);
    empty_tuple = PyTuple_New(0);
    empty_text = PyUnicode_InternFromString("");
    request_uri = PyUnicode_InternFromString("REQUEST_URI");
    raw_uri = PyUnicode_InternFromString("RAW_URI");
    path_info = PyUnicode_InternFromString("PATH_INFO");
    request_method = PyUnicode_InternFromString("REQUEST_METHOD");
    remote_addr = PyUnicode_InternFromString("REMOTE_ADDR");
    stream = PyUnicode_InternFromString("stream");
    begin = PyUnicode_InternFromString("begin");
    ids = PyImport_ImportModule("mdmw.observe.ids");
    place_variable = PyContextVar_New("mdmw.place", NULL);
    if (PyErr_Occurred())
        return -1;
    return import("mdmw.wire", "REQUEST_ID", &id_header) ||
           import("mdmw.records", "JOURNAL", &journal_key) ||
           import("mdmw.records", "SOURCE", &source_key) || import("mdmw.records", "INSTANCE", &instance_key);
}

PyMODINIT_FUNC
PyInit__recording(void)
{
    PyObject *module;

    if (prepare() || PyType_Ready(&StartType) < 0)
        return NULL;
    module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddType(module, &JournalType) < 0 || PyModule_AddType(module, &PlaceType) < 0 ||
        PyModule_AddType(module, &RecordingType) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
