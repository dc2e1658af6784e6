/* The module mdmw.observe._in_c. */

#include "observe.h"

static PyMethodDef functions[] = {
    {"here", here, METH_NOARGS, NULL},
    {"forget_ids", forget_ids, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mdmw.observe._in_c",
    .m_size = -1,
    .m_methods = functions,
};

int
import(const char *module, const char *name, PyObject **value)
{
    PyObject *found = PyImport_ImportModule(module);

    *value = found == NULL ? NULL : PyObject_GetAttrString(found, name);
    Py_XDECREF(found);
    return *value == NULL ? -1 : 0;
}

PyMODINIT_FUNC
PyInit__in_c(void)
{
    PyTypeObject *types[] = {&JournalType, &PlaceType,    &RecordingType, &WaitingType,
                             &LinesType,   &CountersType, &ForAllType,    &ForEachType};
    PyObject *module;

    if (journal_prepare() < 0 || recording_prepare() < 0 || lines_prepare() < 0 || counting_prepare() < 0)
        return NULL;
    module = PyModule_Create(&definition);
    for (size_t i = 0; module != NULL && i < sizeof(types) / sizeof(*types); i++)
        if (PyModule_AddType(module, types[i]) < 0)
            Py_CLEAR(module);
    return module;
}
