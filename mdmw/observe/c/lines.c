/* Lines of the access log: Lines in mdmw.observe.lines. */

#include "observe.h"

#include <math.h>
#include <time.h>

enum { MOST_OF_PATH = 201, MOST_OF_METHOD = 20 }; /* as there: a path of more is cut when it is decoded */
enum { LONGEST_NUMBER = 24, LONGEST_SECOND = 32, KEPT_ROOM = 1 << 20 };

/* The fields of a Form, in their order. */
enum { TIME, REQUEST_ID, STATUS, SENT, MILLISECONDS, STAGES, FIRST_STAGE, NEXT_STAGE, STAGE_TIME, END_OF_STAGES, END };
enum { LITERALS = END + 1, GUEST = LITERALS, QUESTION, REST, FIELDS };

static PyObject *empty_text, *empty_tuple;
static PyObject *address, *scope, *kind, *id, *trace_id; /* names of attributes */

typedef struct {
    const char *text;
    size_t length;
} Piece;

typedef struct {
    PyObject_HEAD
    PyObject *form;
    Piece literals[LITERALS]; /* of the form */
    long long most, waiting, lost;
    char *text; /* all lines */
    size_t length, room;
    long long second;
    char second_text[LONGEST_SECOND];
    Known guests[MOST_KNOWN];    /* by source and instance, themselves */
    Known questions[MOST_KNOWN]; /* by method and target, what they say */
} Lines;

/* --- pieces ---------------------------------------------------------------------------- */

static int
piece_of(PyObject *text, Piece *piece)
{
    if (!PyUnicode_Check(text) || !PyUnicode_IS_ASCII(text)) {
        PyErr_Format(PyExc_ValueError, "%R is no piece of a line: only ASCII is", text);
        return -1;
    }
    piece->text = PyUnicode_DATA(text);
    piece->length = PyUnicode_GET_LENGTH(text);
    return 0;
}

static char *
put(char *at, Piece piece)
{
    memcpy(at, piece.text, piece.length);
    return at + piece.length;
}

static char *
put_number(char *at, long long number)
{
    char digits[LONGEST_NUMBER];
    int i = LONGEST_NUMBER;
    unsigned long long rest = number < 0 ? 0ULL - (unsigned long long)number : (unsigned long long)number;

    do {
        digits[--i] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0)
        *at++ = '-';
    memcpy(at, digits + i, LONGEST_NUMBER - i);
    return at + LONGEST_NUMBER - i;
}

static char *
put_thousandths(char *at, int thousandths)
{
    *at++ = '.';
    *at++ = (char)('0' + thousandths / 100);
    *at++ = (char)('0' + thousandths / 10 % 10);
    *at++ = (char)('0' + thousandths % 10);
    return at;
}

static char *
put_milliseconds(char *at, double seconds)
{
    double rounded = nearbyint(seconds * 1e6); /* to even, as round() */
    long long microseconds = rounded >= 0 && rounded < 1e18 ? (long long)rounded : 0;

    return put_thousandths(put_number(at, microseconds / 1000), (int)(microseconds % 1000));
}

static char *
put_time(Lines *lines, char *at, double time)
{
    long long milliseconds = time >= 0 && time < 1e11 ? (long long)(time * 1000) : 0;
    time_t second = milliseconds / 1000;

    if (second != lines->second || lines->second_text[0] == '\0') {
        struct tm parts;

        gmtime_r(&second, &parts);
        strftime(lines->second_text, LONGEST_SECOND, "%Y-%m-%dT%H:%M:%S", &parts);
        lines->second = second;
    }
    at = put(at, (Piece){lines->second_text, strlen(lines->second_text)});
    at = put_thousandths(at, (int)(milliseconds % 1000));
    *at++ = 'Z';
    return at;
}

/* --- what Python says: new references ------------------------------------------------------ */

static PyObject *
new_guest(Lines *lines, Journal *journal)
{
    PyObject *guest = NULL, *where = NULL, *which = NULL, *of = NULL, *of_instance;
    PyObject *source = journal->source;

    of_instance = journal->instance ? PyObject_GetAttr(journal->instance, id) : Py_NewRef(empty_text);
    if (of_instance == NULL)
        return NULL;
    if (source == NULL) {
        guest = PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(lines->form, GUEST),
                                             journal->peer ? journal->peer : empty_text, empty_text, empty_text,
                                             of_instance, NULL);
    } else if ((where = PyObject_GetAttr(source, address)) && (of = PyObject_GetAttr(source, scope)) &&
               (which = PyObject_GetAttr(of, kind))) {
        PyObject *of_scope = PyObject_GetAttr(of, id);

        if (of_scope != NULL)
            guest = PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(lines->form, GUEST), where, which, of_scope,
                                                 of_instance, NULL);
        Py_XDECREF(of_scope);
    }
    Py_DECREF(of_instance);
    Py_XDECREF(where);
    Py_XDECREF(which);
    Py_XDECREF(of);
    return guest;
}

static PyObject *
guest_of(Lines *lines, Journal *journal)
{
    PyObject *instance = journal->instance ? journal->instance : Py_None, *guest;
    Known *known;

    if (journal->source == NULL)
        return new_guest(lines, journal);
    known = known_at(lines->guests, (uintptr_t)journal->source, (uintptr_t)instance);
    if (is_known(known, journal->source, instance))
        return Py_NewRef(known->value);
    guest = new_guest(lines, journal);
    if (guest != NULL)
        known_keep(known, journal->source, instance, guest);
    return guest;
}

static PyObject *
new_question(Lines *lines, Journal *journal, Py_ssize_t end_of_path)
{
    PyObject *method = PyUnicode_Substring(journal->method, 0, MOST_OF_METHOD);
    PyObject *path = PyUnicode_Substring(journal->target, 0, Py_MIN(end_of_path, MOST_OF_PATH));
    PyObject *question = NULL;

    if (method && path)
        question =
            PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(lines->form, QUESTION), method, path, NULL);
    Py_XDECREF(method);
    Py_XDECREF(path);
    return question;
}

static PyObject *
question_of(Lines *lines, Journal *journal, Py_ssize_t end_of_path)
{
    PyObject *method = journal->method, *target = journal->target, *question;
    Known *known;

    if (end_of_path != PyUnicode_GET_LENGTH(target) || end_of_path > MOST_OF_PATH ||
        PyUnicode_GET_LENGTH(method) > MOST_OF_METHOD)
        return new_question(lines, journal, end_of_path); /* others would have the same beginning */
    known = known_at(lines->questions, PyObject_Hash(method), PyObject_Hash(target));
    if (known->value != NULL && PyUnicode_Compare(known->first, method) == 0 &&
        PyUnicode_Compare(known->second, target) == 0)
        return Py_NewRef(known->value);
    question = new_question(lines, journal, end_of_path);
    if (question != NULL)
        known_keep(known, method, target, question);
    return question;
}

static PyObject *
items_of(Journal *journal)
{
    PyObject *items, *all;

    if (!has_notes(journal))
        return Py_NewRef(empty_tuple);
    items = PyDict_Items(journal->notes);
    all = items ? PyList_AsTuple(items) : NULL;
    Py_XDECREF(items);
    return all;
}

static PyObject *
rest_of(Lines *lines, Journal *journal, int has_query)
{
    PyObject *trace, *notes, *rest = NULL;

    if (!has_query && journal->trace == NULL && !has_notes(journal) && !says_something(journal->cache) &&
        !says_something(journal->error))
        return Py_NewRef(empty_text);
    trace = journal->trace ? PyObject_GetAttr(journal->trace, trace_id) : Py_NewRef(empty_text);
    notes = trace ? items_of(journal) : NULL;
    if (notes)
        rest = PyObject_CallFunctionObjArgs(
            PyTuple_GET_ITEM(lines->form, REST), journal->cache ? journal->cache : empty_text,
            journal->error ? journal->error : empty_text, has_query ? Py_True : Py_False, trace, notes, NULL);
    Py_XDECREF(trace);
    Py_XDECREF(notes);
    return rest;
}

/* --- a line ------------------------------------------------------------------------------- */

static int
make_room(Lines *lines, size_t more)
{
    size_t room = lines->room ? lines->room : 4096;
    char *text;

    while (room - lines->length < more)
        room *= 2;
    if (room == lines->room)
        return 0;
    text = PyMem_Realloc(lines->text, room);
    if (text == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    lines->text = text;
    lines->room = room;
    return 0;
}

static int
add_line(Lines *lines, Journal *journal, Piece guest, Piece question, Piece rest)
{
    const Piece *literals = lines->literals;
    Piece request_id, name;
    size_t most = guest.length + question.length + rest.length + LONGEST_SECOND + 4 * LONGEST_NUMBER;
    char *at;

    if (piece_of(journal->request_id, &request_id) < 0)
        return -1;
    most += request_id.length;
    for (int i = 0; i < LITERALS; i++)
        most += literals[i].length;
    for (Py_ssize_t i = 0; i < journal->count; i++) {
        if (piece_of(journal->stages[i].name, &name) < 0)
            return -1;
        most += literals[NEXT_STAGE].length + name.length + literals[STAGE_TIME].length + LONGEST_NUMBER;
    }
    if (make_room(lines, most) < 0)
        return -1;

    at = put_time(lines, put(lines->text + lines->length, literals[TIME]), journal->time);
    at = put(put(put(put(at, literals[REQUEST_ID]), request_id), guest), question);
    at = put_number(put(at, literals[STATUS]), journal->status);
    at = put_number(put(at, literals[SENT]), journal->sent);
    at = put_milliseconds(put(at, literals[MILLISECONDS]), journal->seconds);
    at = put(at, literals[STAGES]);
    for (Py_ssize_t i = 0; i < journal->count; i++) {
        piece_of(journal->stages[i].name, &name);
        at = put(put(put(at, literals[i ? NEXT_STAGE : FIRST_STAGE]), name), literals[STAGE_TIME]);
        at = put_milliseconds(at, journal->stages[i].seconds);
    }
    at = put(put(put(at, literals[END_OF_STAGES]), rest), literals[END]);
    lines->length = at - lines->text;
    lines->waiting++;
    return 0;
}

static PyObject *
lines_over(Lines *lines, PyObject *object)
{
    Journal *journal = journal_of(object);
    PyObject *guest, *question, *rest;
    Piece pieces[3];
    Py_ssize_t length, end_of_path;
    int is_good;

    if (journal == NULL)
        return NULL;
    if (lines->form == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "these lines were not initialised");
        return NULL;
    }
    if (lines->waiting >= lines->most) {
        lines->lost++;
        Py_RETURN_NONE;
    }
    length = PyUnicode_GET_LENGTH(journal->target);
    end_of_path = PyUnicode_FindChar(journal->target, '?', 0, length, 1);
    guest = guest_of(lines, journal);
    question = guest ? question_of(lines, journal, end_of_path < 0 ? length : end_of_path) : NULL;
    rest = question ? rest_of(lines, journal, end_of_path >= 0) : NULL;
    is_good = rest && piece_of(guest, &pieces[0]) == 0 && piece_of(question, &pieces[1]) == 0 &&
              piece_of(rest, &pieces[2]) == 0 &&
              add_line(lines, journal, pieces[0], pieces[1], pieces[2]) == 0;
    Py_XDECREF(guest);
    Py_XDECREF(question);
    Py_XDECREF(rest);
    if (!is_good)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
lines_take(Lines *lines, PyObject *nothing)
{
    char *text = lines->text;
    size_t length = lines->length, room = lines->room;
    long long waiting = lines->waiting, lost = lines->lost;
    PyObject *taken;

    (void)nothing;
    lines->text = NULL;
    lines->length = lines->room = 0;
    lines->waiting = lines->lost = 0;
    taken = Py_BuildValue("(y#LL)", text ? text : "", (Py_ssize_t)length, waiting, lost);
    if (lines->text == NULL && room <= KEPT_ROOM) {
        lines->text = text; /* the next ones find warm memory there */
        lines->room = room;
    } else {
        PyMem_Free(text);
    }
    return taken;
}

/* --- the type ------------------------------------------------------------------------------ */

static int
lines_init(Lines *lines, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"form", "most", NULL};
    PyObject *form;

    lines->most = 20000;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|L:Lines", names, &PyTuple_Type, &form, &lines->most))
        return -1;
    if (PyTuple_GET_SIZE(form) != FIELDS) {
        PyErr_Format(PyExc_ValueError, "a form has %d fields", FIELDS);
        return -1;
    }
    for (int i = 0; i < LITERALS; i++)
        if (piece_of(PyTuple_GET_ITEM(form, i), &lines->literals[i]) < 0)
            return -1;
    Py_XSETREF(lines->form, Py_NewRef(form));
    return 0;
}

static void
lines_dealloc(Lines *lines)
{
    PyMem_Free(lines->text);
    known_forget(lines->guests, MOST_KNOWN);
    known_forget(lines->questions, MOST_KNOWN);
    Py_XDECREF(lines->form);
    Py_TYPE(lines)->tp_free(lines);
}

static PyMethodDef methods[] = {
    {"over", (PyCFunction)lines_over, METH_O, NULL},
    {"take", (PyCFunction)lines_take, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject LinesType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "mdmw.observe._in_c.Lines",
    .tp_basicsize = sizeof(Lines),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)lines_init,
    .tp_dealloc = (destructor)lines_dealloc,
    .tp_methods = methods,
};

int
lines_prepare(void)
{
    empty_tuple = PyTuple_New(0);
    empty_text = PyUnicode_InternFromString("");
    address = PyUnicode_InternFromString("address");
    scope = PyUnicode_InternFromString("scope");
    kind = PyUnicode_InternFromString("kind");
    id = PyUnicode_InternFromString("id");
    trace_id = PyUnicode_InternFromString("trace_id");
    return PyErr_Occurred() ? -1 : 0;
}
