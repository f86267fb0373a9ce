/* Reads one block of a TPACKET_V3 ring and gives it back to the kernel. The compiled twin of agent/kernel/ring.py.
 *
 * Nothing here knows what a packet says. The offsets in a block are the kernel's, and are checked all the same: the
 * memory is mapped writable.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <linux/if_packet.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Where struct sockaddr_ll stands behind a packet's header (TPACKET_ALIGN of it): the direction is in there. */
#define ADDRESS_AT TPACKET_ALIGN(sizeof(struct tpacket3_hdr))
#define HEAD_SIZE (ADDRESS_AT + sizeof(struct sockaddr_ll))
#define BLOCK_HEAD (offsetof(struct tpacket_block_desc, hdr) + sizeof(struct tpacket_hdr_v1))

static int damaged(const char *what)
{
    PyErr_Format(PyExc_ValueError, "the ring is damaged: %s", what);
    return 0;
}

/* The packet at `head` as a tuple; NULL with an exception. `left` is how much of the block there is from here on. */
static PyObject *packet(const unsigned char *head, size_t left)
{
    if (left < HEAD_SIZE)
        return damaged("a header beyond its block"), NULL;
    struct tpacket3_hdr it;
    struct sockaddr_ll address;
    memcpy(&it, head, sizeof(it));
    memcpy(&address, head + ADDRESS_AT, sizeof(address));
    if (it.tp_mac > left || it.tp_snaplen > left - it.tp_mac)
        return damaged("a packet beyond its block"), NULL;
    long vlan = it.tp_status & TP_STATUS_VLAN_VALID ? (long)(it.hv1.tp_vlan_tci & 0xfff) : -1;
    PyObject *tuple = PyTuple_New(5);
    if (tuple == NULL)
        return NULL;
    PyTuple_SET_ITEM(tuple, 0, PyFloat_FromDouble((double)it.tp_sec + (double)it.tp_nsec * 1e-9));
    PyTuple_SET_ITEM(tuple, 1, PyBytes_FromStringAndSize((const char *)head + it.tp_mac, (Py_ssize_t)it.tp_snaplen));
    PyTuple_SET_ITEM(tuple, 2, PyLong_FromUnsignedLong(it.tp_len));
    PyTuple_SET_ITEM(tuple, 3, PyLong_FromUnsignedLong(address.sll_pkttype));
    PyTuple_SET_ITEM(tuple, 4, PyLong_FromLong(vlan));
    for (Py_ssize_t i = 0; i < 5; i++) {
        if (PyTuple_GET_ITEM(tuple, i) == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
    }
    return tuple;
}

static PyObject *packets(const unsigned char *block, size_t size)
{
    struct tpacket_hdr_v1 head;
    memcpy(&head, block + offsetof(struct tpacket_block_desc, hdr), sizeof(head));
    if (head.num_pkts > size / HEAD_SIZE)
        return damaged("more packets than its block holds"), NULL;
    PyObject *list = PyList_New((Py_ssize_t)head.num_pkts);
    size_t at = head.offset_to_first_pkt;
    for (uint32_t i = 0; list != NULL && i < head.num_pkts; i++) {
        PyObject *item = at <= size ? packet(block + at, size - at) : (damaged("a header beyond its block"), NULL);
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
        uint32_t next;
        memcpy(&next, block + at, sizeof(next)); /* tp_next_offset is the first field */
        at += next;
    }
    return list;
}

static PyObject *take_block(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer ring;
    Py_ssize_t offset, size;
    if (!PyArg_ParseTuple(args, "w*nn:take_block", &ring, &offset, &size))
        return NULL;
    PyObject *list = NULL;
    if (offset < 0 || size < (Py_ssize_t)BLOCK_HEAD || offset > ring.len - size || offset % 8) {
        PyErr_SetString(PyExc_ValueError, "no block there");
        goto done;
    }
    unsigned char *block = (unsigned char *)ring.buf + offset;
    uint32_t *status = (uint32_t *)(block + offsetof(struct tpacket_block_desc, hdr.bh1.block_status));
    if (!(__atomic_load_n(status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
        list = Py_NewRef(Py_None);
        goto done;
    }
    list = packets(block, (size_t)size);
    __atomic_store_n(status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
done:
    PyBuffer_Release(&ring);
    return list;
}

static PyMethodDef functions[] = {
    {"take_block", take_block, METH_VARARGS,
     "take_block(ring, offset, size) -> list | None\n\nThe packets of a block; None while the kernel fills it."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._packet",
    .m_doc = "Blocks of a packet socket's ring.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__packet(void) { return PyModuleDef_Init(&definition); }
