/* Preloaded: while $FAILING_DISK/sync exists, nothing below a folder named "ledger" can be synced, and
 * while $FAILING_DISK/write exists, nothing can be written there either: EIO, as from a broken disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_there(const char *name) {
    char path[PATH_MAX];
    const char *disk = getenv("FAILING_DISK");
    if (!disk) return 0;
    snprintf(path, sizeof path, "%s/%s", disk, name);
    return access(path, F_OK) == 0;
}

static int fails(int fd, const char *how) {
    char link[64], path[PATH_MAX];
    if (!is_there(how)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    if (!strstr(path, "/ledger/")) return 0;
    errno = EIO;
    return 1;
}

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

ssize_t write(int fd, const void *bytes, size_t n) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = next("write");
    return fails(fd, "write") ? -1 : real(fd, bytes, n);
}

ssize_t writev(int fd, const struct iovec *pieces, int n) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = next("writev");
    return fails(fd, "write") ? -1 : real(fd, pieces, n);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = next("pwrite");
    return fails(fd, "write") ? -1 : real(fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = next("pwrite64");
    return fails(fd, "write") ? -1 : real(fd, bytes, n, at);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = next("fsync");
    return fails(fd, "sync") || fails(fd, "write") ? -1 : real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = next("fdatasync");
    return fails(fd, "sync") || fails(fd, "write") ? -1 : real(fd);
}
