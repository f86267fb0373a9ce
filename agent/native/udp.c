/* Datagrams in batches: many per system call (recvmmsg, sendmmsg). The compiled twin of agent/ingress/datagrams.py.
 *
 * Both calls are for sockets that do not block and never wait. An address is the bytes of its sockaddr, to be kept,
 * compared and given back, never read here. Nothing here knows what a datagram says.
 */

#define PY_SSIZE_T_CLEAN
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

/* As in agent/ingress/datagrams.py. A batch is short beside one turn of the event loop: 64 calls take half a
 * millisecond. */
#define MAX_BATCH 64
#define MAX_DATAGRAM 65535

/* 4 MB in one allocation at import: a datagram is read where it can have its full length. The pages that no long
 * datagram ever touches are never backed by memory. */
typedef struct {
    unsigned char *buffers; /* MAX_BATCH times MAX_DATAGRAM */
} State;

static State *state_of(PyObject *module) { return PyModule_GetState(module); }

/* ---- receiving ------------------------------------------------------------------------------------------------- */

static PyObject *pair(const unsigned char *data, size_t length, const struct sockaddr_in6 *address, socklen_t size)
{
    if (size > (socklen_t)sizeof(*address))
        size = sizeof(*address);
    PyObject *payload = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
    PyObject *from = PyBytes_FromStringAndSize((const char *)address, (Py_ssize_t)size);
    PyObject *both = payload != NULL && from != NULL ? PyTuple_New(2) : NULL;
    if (both == NULL) {
        Py_XDECREF(payload);
        Py_XDECREF(from);
        return NULL;
    }
    PyTuple_SET_ITEM(both, 0, payload);
    PyTuple_SET_ITEM(both, 1, from);
    return both;
}

static PyObject *recv_batch(PyObject *module, PyObject *args)
{
    int fd, most;
    if (!PyArg_ParseTuple(args, "ii:recv_batch", &fd, &most))
        return NULL;
    if (most < 1 || most > MAX_BATCH)
        return PyErr_Format(PyExc_ValueError, "a batch has 1 to %d datagrams, not %d", MAX_BATCH, most);
    unsigned char *buffers = state_of(module)->buffers;
    struct mmsghdr heads[MAX_BATCH];
    struct iovec parts[MAX_BATCH];
    struct sockaddr_in6 addresses[MAX_BATCH]; /* holds a sockaddr_in too */
    memset(heads, 0, (size_t)most * sizeof(heads[0]));
    for (int i = 0; i < most; i++) {
        parts[i] = (struct iovec){buffers + (size_t)i * MAX_DATAGRAM, MAX_DATAGRAM};
        heads[i].msg_hdr.msg_name = &addresses[i];
        heads[i].msg_hdr.msg_namelen = sizeof(addresses[i]);
        heads[i].msg_hdr.msg_iov = &parts[i];
        heads[i].msg_hdr.msg_iovlen = 1;
    }
    /* The GIL stays: the call does not wait, and giving it up and taking it again would cost more than the call. It
     * also keeps the buffers ours until their bytes are copied. */
    int count;
    do {
        count = recvmmsg(fd, heads, (unsigned)most, MSG_DONTWAIT, NULL);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return PyList_New(0);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *list = PyList_New(count);
    for (int i = 0; list != NULL && i < count; i++) {
        PyObject *item = pair(parts[i].iov_base, heads[i].msg_len, &addresses[i], heads[i].msg_hdr.msg_namelen);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, item);
    }
    return list;
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

/* Point `head` at the item (payload, address); 0 and an exception if it is no such pair. */
static int point_at(PyObject *item, struct mmsghdr *head, struct iovec *part)
{
    if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 2 || !PyBytes_CheckExact(PyTuple_GET_ITEM(item, 0)) ||
        !PyBytes_CheckExact(PyTuple_GET_ITEM(item, 1))) {
        PyErr_SetString(PyExc_TypeError, "a datagram to send is a pair of bytes: payload and address");
        return 0;
    }
    PyObject *payload = PyTuple_GET_ITEM(item, 0), *address = PyTuple_GET_ITEM(item, 1);
    *part = (struct iovec){PyBytes_AS_STRING(payload), (size_t)PyBytes_GET_SIZE(payload)};
    memset(head, 0, sizeof(*head));
    head->msg_hdr.msg_name = PyBytes_AS_STRING(address);
    head->msg_hdr.msg_namelen = (socklen_t)PyBytes_GET_SIZE(address);
    head->msg_hdr.msg_iov = part;
    head->msg_hdr.msg_iovlen = 1;
    return 1;
}

/* Send [0, count): how many were sent. *full: the rest has no room in the socket. */
static int send_some(int fd, struct mmsghdr *heads, int count, int *full)
{
    int at = 0, sent = 0;
    while (at < count) {
        int done = sendmmsg(fd, heads + at, (unsigned)(count - at), MSG_DONTWAIT);
        if (done > 0) {
            at += done;
            sent += done;
        } else if (done < 0 && errno == EINTR) {
            continue;
        } else if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EBADF)) {
            *full = 1;
            break;
        } else {
            at++; /* this one cannot be sent (no route, too long, not permitted): the others can */
        }
    }
    return sent;
}

static PyObject *send_batch(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    PyObject *list;
    if (!PyArg_ParseTuple(args, "iO!:send_batch", &fd, &PyList_Type, &list))
        return NULL;
    struct mmsghdr heads[MAX_BATCH];
    struct iovec parts[MAX_BATCH];
    Py_ssize_t total = PyList_GET_SIZE(list), sent = 0;
    int full = 0;
    for (Py_ssize_t at = 0; at < total && !full; at += MAX_BATCH) {
        int count = total - at < MAX_BATCH ? (int)(total - at) : MAX_BATCH;
        for (int i = 0; i < count; i++) {
            if (!point_at(PyList_GET_ITEM(list, at + i), &heads[i], &parts[i]))
                return NULL;
        }
        sent += send_some(fd, heads, count, &full);
    }
    return PyLong_FromSsize_t(total - sent);
}

/* ---- the module ------------------------------------------------------------------------------------------------ */

static int prepare(PyObject *module)
{
    State *state = state_of(module);
    state->buffers = PyMem_RawMalloc((size_t)MAX_BATCH * MAX_DATAGRAM);
    if (state->buffers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return PyModule_AddIntConstant(module, "MAX_BATCH", MAX_BATCH);
}

static void release(void *module)
{
    State *state = state_of(module);
    if (state != NULL) {
        PyMem_RawFree(state->buffers);
        state->buffers = NULL;
    }
}

static PyMethodDef functions[] = {
    {"recv_batch", recv_batch, METH_VARARGS,
     "recv_batch(fd, most) -> list of (payload, address)\n\nWhat has come, at most so many; empty if nothing has."},
    {"send_batch", send_batch, METH_VARARGS,
     "send_batch(fd, datagrams) -> int\n\nSend (payload, address) pairs in order; how many could not be sent."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, prepare},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._udp",
    .m_doc = "Datagrams in batches.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__udp(void) { return PyModuleDef_Init(&definition); }
