/* A sendmmsg that tests can script: probe.pyx is compiled with -Dsendmmsg=scripted_sendmmsg, so the inline functions of
 * runs.pxd call this one, and the shipped core pays nothing for it. */
#ifndef MCRELAY_PROBE_H
#define MCRELAY_PROBE_H

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SCRIPT_MOST = 4096, REAL = 0, RUNS_ALL = 100000 };

/* Each step is for one call: REAL, errno to fail with, or -n to let n messages through and say so.
 * A step RUNS_ALL + errno stays for ever: messages of several datagrams fail, single ones go through. */
static int script[SCRIPT_MOST], results[SCRIPT_MOST];
static unsigned int datagrams[SCRIPT_MOST];
static unsigned int script_size, script_at, calls_size;

static inline void script_push(int step) { script[script_size++] = step; }
static inline void script_clear(void) { script_size = script_at = 0; }
static inline unsigned int script_left(void) { return script_size - script_at; }
static inline void calls_clear(void) { calls_size = 0; }
static inline unsigned int calls_count(void) { return calls_size; }
static inline int call_result(unsigned int i) { return results[i]; }
static inline unsigned int call_datagrams(unsigned int i) { return datagrams[i]; }

static inline int send_really(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    return (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

static inline int send_by_script(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    unsigned int whole = 0;
    int step = script_at < script_size ? script[script_at] : REAL;
    if (step >= RUNS_ALL) {
        while (whole < count && messages[whole].msg_hdr.msg_iovlen == 1)
            whole++;
        if (whole == 0) {
            errno = step - RUNS_ALL;
            return -1;
        }
        return send_really(fd, messages, whole, flags);
    }
    if (script_at < script_size)
        script_at++;
    if (step > 0) {
        errno = step;
        return -1;
    }
    if (step < 0 && count > (unsigned int)-step)
        count = (unsigned int)-step;
    return send_really(fd, messages, count, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    int result = send_by_script(fd, messages, count, flags);
    if (calls_size < SCRIPT_MOST) {
        results[calls_size] = result;
        datagrams[calls_size++] = count ? (unsigned int)messages[0].msg_hdr.msg_iovlen : 0;
    }
    return result;
}

#endif
