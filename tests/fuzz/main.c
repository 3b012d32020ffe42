/* libFuzzer's two entries. The core is imported once, so that what the targets of fuzz.pyx call is there; -DTARGET says
 * which of them this program is. */
#include <Python.h>
#include <stdint.h>

PyMODINIT_FUNC PyInit_fuzz(void);
int TARGET(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    PyImport_AppendInittab("fuzz", PyInit_fuzz);
    Py_Initialize();
    if (PyImport_ImportModule("fuzz") == NULL) {
        PyErr_Print();
        return 1;
    }
    PyEval_SaveThread();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return TARGET(data, size); }
