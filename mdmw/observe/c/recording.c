/* Where a request has its journal, and the filter that keeps it: mdmw.observe.recording. */

#include "observe.h"

enum { STATUS_DIGITS = 3, FEW = 64 };

static PyObject *empty_text, *id_header;
static PyObject *journal_key, *source_key, *instance_key; /* of an environ, mdmw.records */
static PyObject *request_uri, *raw_uri, *path_info, *request_method, *remote_addr, *stream, *over;
static PyObject *place_variable;

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

PyTypeObject PlaceType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.Place",
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

PyObject *
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
    .tp_name = "mdmw.observe._in_c.Start",
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
    if (found != Py_None && (key != remote_addr || PyUnicode_Check(found)))
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

    journal_close(journal);
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

PyTypeObject RecordingType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.Recording",
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

/* --- Waiting --------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *wake, *told;
    char is_awake;
    int count;
    Journal *journals[FEW];
} Waiting;

/* As many journals as have the same observers as the first one are told of, and let go. */
static int
tell_some(Waiting *waiting, Journal **journals, int count)
{
    PyObject *observers = Py_NewRef(journals[0]->observers), *nothing;
    int some = 1;

    while (some < count && journals[some]->observers == observers)
        some++;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(observers); i++) {
        PyObject *observer = PyTuple_GET_ITEM(observers, i);
        PyObject *tell = PyObject_GetAttr(observer, over);

        if (tell == NULL)
            PyErr_WriteUnraisable(observer);
        for (int j = 0; tell != NULL && j < some; j++) {
            nothing = PyObject_CallOneArg(tell, (PyObject *)journals[j]);
            if (nothing == NULL)
                PyErr_WriteUnraisable(observer); /* a defect of an observer costs no guest its answer */
            Py_XDECREF(nothing);
        }
        Py_XDECREF(tell);
    }
    for (int j = 0; j < some; j++) {
        Py_SETREF(journals[j]->observers, PyTuple_New(0));
        Py_DECREF(journals[j]);
    }
    nothing = PyObject_CallOneArg(waiting->told, observers);
    if (nothing == NULL)
        PyErr_WriteUnraisable(waiting->told);
    Py_XDECREF(nothing);
    Py_DECREF(observers);
    return some;
}

static PyObject *
waiting_tell(Waiting *waiting, PyObject *nothing)
{
    Journal *journals[FEW];
    int count = waiting->count;

    (void)nothing;
    memcpy(journals, waiting->journals, count * sizeof(Journal *));
    waiting->count = 0;
    waiting->is_awake = 0;
    for (int done = 0; done < count;)
        done += tell_some(waiting, journals + done, count - done);
    Py_RETURN_NONE;
}

static PyObject *
waiting_add(Waiting *waiting, PyObject *object)
{
    Journal *journal = journal_of(object);

    if (journal == NULL)
        return NULL;
    waiting->journals[waiting->count++] = (Journal *)Py_NewRef(object);
    if (waiting->count == FEW) /* never more, whatever other threads do in the calls below */
        return waiting_tell(waiting, NULL);
    if (waiting->is_awake)
        Py_RETURN_NONE;
    waiting->is_awake = 1;
    return PyObject_CallNoArgs(waiting->wake);
}

static void
let_go(Waiting *waiting)
{
    int count = waiting->count;

    waiting->count = 0;
    waiting->is_awake = 0;
    for (int i = 0; i < count; i++)
        Py_DECREF(waiting->journals[i]);
}

static PyObject *
waiting_forget(Waiting *waiting, PyObject *nothing)
{
    (void)nothing;
    let_go(waiting);
    Py_RETURN_NONE;
}

static PyObject *
waiting_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"wake", "told", NULL};
    PyObject *wake, *told;
    Waiting *waiting;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Waiting", names, &wake, &told))
        return NULL;
    waiting = (Waiting *)type->tp_alloc(type, 0);
    if (waiting == NULL)
        return NULL;
    waiting->wake = Py_NewRef(wake);
    waiting->told = Py_NewRef(told);
    return (PyObject *)waiting;
}

static void
waiting_dealloc(Waiting *waiting)
{
    let_go(waiting);
    Py_XDECREF(waiting->wake);
    Py_XDECREF(waiting->told);
    Py_TYPE(waiting)->tp_free(waiting);
}

static PyMethodDef waiting_methods[] = {
    {"add", (PyCFunction)waiting_add, METH_O, NULL},
    {"tell", (PyCFunction)waiting_tell, METH_NOARGS, NULL},
    {"forget", (PyCFunction)waiting_forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject WaitingType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.Waiting",
    .tp_basicsize = sizeof(Waiting),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = waiting_new,
    .tp_dealloc = (destructor)waiting_dealloc,
    .tp_methods = waiting_methods,
};

int
recording_prepare(void)
{
    empty_text = PyUnicode_InternFromString("");
    request_uri = PyUnicode_InternFromString("REQUEST_URI");
    raw_uri = PyUnicode_InternFromString("RAW_URI");
    path_info = PyUnicode_InternFromString("PATH_INFO");
    request_method = PyUnicode_InternFromString("REQUEST_METHOD");
    remote_addr = PyUnicode_InternFromString("REMOTE_ADDR");
    stream = PyUnicode_InternFromString("stream");
    over = PyUnicode_InternFromString("over");
    place_variable = PyContextVar_New("mdmw.place", NULL);
    if (PyErr_Occurred())
        return -1;
    if (import("mdmw.wire", "REQUEST_ID", &id_header) < 0 ||
        import("mdmw.records", "JOURNAL", &journal_key) < 0 ||
        import("mdmw.records", "SOURCE", &source_key) < 0 ||
        import("mdmw.records", "INSTANCE", &instance_key) < 0)
        return -1;
    return PyType_Ready(&StartType);
}
