/* Records what a process does to the files below one directory.

   Loaded with LD_PRELOAD. POWER_WATCH names the directory (a real path), POWER_RECORD the file that
   the record goes to, which must lie elsewhere. Each call that changes or syncs a watched file is
   made and recorded under one mutex, so that the record has the order of the calls. An -shm is left
   out: SQLite makes it anew after a crash. What would change a watched file without being recorded
   (a writable mapping, a hard link, a moved directory) is recorded as `X`, which fails the test.

   A record: an `event` as below, then `names` bytes of text, then `bytes` of data. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct event {
    uint64_t inode;
    uint64_t offset; /* of a write; the new size of a truncation */
    uint32_t names;
    uint32_t bytes;
    char kind;
    char padding[7];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const char *watch;
static size_t watch_length;
static int record = -1;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("POWER_RECORD");
    const char *folder = getenv("POWER_WATCH");
    if (!path || !folder) return;
    record = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (record < 0) abort();
    watch = strdup(folder);
    watch_length = strlen(watch);
}

static void put_all(struct iovec *parts, int count) {
    for (int i = 0; i < count; i++) {
        char *at = parts[i].iov_base;
        size_t left = parts[i].iov_len;
        while (left) {
            ssize_t done = syscall(SYS_write, record, at, left);
            if (done < 0 && errno == EINTR) continue;
            if (done <= 0) abort();
            at += done;
            left -= done;
        }
    }
}

static void note(char kind, uint64_t inode, uint64_t offset, const char *names, const void *data,
                 size_t bytes) {
    int saved = errno;
    struct event event = {inode, offset, (uint32_t)strlen(names), (uint32_t)bytes, kind, {0}};
    struct iovec parts[] = {{&event, sizeof event}, {(void *)names, event.names}, {(void *)data, bytes}};
    put_all(parts, 3);
    errno = saved;
}

/* For the workload, through ctypes. */
void power_mark(const char *text) {
    pthread_mutex_lock(&mutex);
    if (record >= 0) note('M', 0, 0, text, NULL, 0);
    pthread_mutex_unlock(&mutex);
}

/* The name below the watched directory ("" for itself), or NULL. */
static const char *watched(const char *path) {
    if (record < 0 || strncmp(path, watch, watch_length)) return NULL;
    const char *rest = path + watch_length;
    if (*rest == 0) return rest;
    if (*rest != '/') return NULL;
    size_t length = strlen(rest);
    if (length > 4 && !strcmp(rest + length - 4, "-shm")) return NULL;
    return rest + 1;
}

static const char *link_of(const char *link, char *path) {
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    return watched(path);
}

static void number_after(char *text, int number) {
    char digits[16];
    int count = 0;
    do digits[count++] = '0' + number % 10; while (number /= 10);
    text += strlen(text);
    while (count) *text++ = digits[--count];
    *text = 0;
}

static const char *name_of(int file, char *path) {
    char link[64] = "/proc/self/fd/";
    if (record < 0 || file < 0) return NULL;
    number_after(link, file);
    int saved = errno;
    const char *name = link_of(link, path);
    errno = saved;
    return name;
}

/* As `watched`, for a name that a call was given. */
static const char *name_at(int folder, const char *name, char *path) {
    if (record < 0) return NULL;
    if (*name == '/') return watched(strcpy(path, name));
    char link[64] = "/proc/self/cwd";
    if (folder != AT_FDCWD) {
        strcpy(link, "/proc/self/fd/");
        number_after(link, folder);
    }
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length < 0 || length + strlen(name) + 2 > PATH_MAX) return NULL;
    path[length] = '/';
    strcpy(path + length + 1, name);
    return watched(path);
}

static struct stat status_of(int file) {
    struct stat status;
    if (fstat(file, &status)) abort();
    return status;
}

#define LOCKED(call) \
    pthread_mutex_lock(&mutex); \
    call; \
    pthread_mutex_unlock(&mutex)

/* Opening. */

static int do_open(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX], real[PATH_MAX];
    struct stat before;
    if (!(flags & (O_CREAT | O_TRUNC)) || !name_at(folder, name, path))
        return syscall(SYS_openat, folder, name, flags, mode);
    pthread_mutex_lock(&mutex);
    int existed = fstatat(folder, name, &before, 0) == 0;
    int file = syscall(SYS_openat, folder, name, flags, mode);
    const char *found = file < 0 ? NULL : name_of(file, real);
    if (found && !existed)
        note('C', status_of(file).st_ino, 0, found, NULL, 0);
    else if (found && flags & O_TRUNC && (flags & O_ACCMODE) != O_RDONLY)
        note('T', status_of(file).st_ino, 0, "", NULL, 0);
    pthread_mutex_unlock(&mutex);
    return file;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, int); \
        va_end(more); \
    }

int open(const char *name, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return do_open(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return do_open(folder, name, flags, mode); }
int creat(const char *name, mode_t mode) { return do_open(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

/* Writing. */

static off_t position(int file) {
    if (fcntl(file, F_GETFL) & O_APPEND) return status_of(file).st_size;
    return lseek(file, 0, SEEK_CUR);
}

ssize_t write(int file, const void *data, size_t bytes) {
    char path[PATH_MAX];
    if (!name_of(file, path)) return syscall(SYS_write, file, data, bytes);
    pthread_mutex_lock(&mutex);
    off_t offset = position(file);
    ssize_t done = syscall(SYS_write, file, data, bytes);
    if (done > 0) note('W', status_of(file).st_ino, offset, "", data, done);
    pthread_mutex_unlock(&mutex);
    return done;
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t offset) {
    char path[PATH_MAX];
    if (!name_of(file, path)) return syscall(SYS_pwrite64, file, data, bytes, offset);
    pthread_mutex_lock(&mutex);
    ssize_t done = syscall(SYS_pwrite64, file, data, bytes, offset);
    if (done > 0) note('W', status_of(file).st_ino, offset, "", data, done);
    pthread_mutex_unlock(&mutex);
    return done;
}

ssize_t pwrite64(int file, const void *data, size_t bytes, off_t offset) { return pwrite(file, data, bytes, offset); }

/* One part at a time is as good: callers take short writes. */
ssize_t writev(int file, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (count < 1 || !name_of(file, path)) return syscall(SYS_writev, file, parts, count);
    return write(file, parts[0].iov_base, parts[0].iov_len);
}

static ssize_t copied(int to, int from, off_t *at, size_t bytes, ssize_t (*copy)(int, int, off_t *, size_t)) {
    pthread_mutex_lock(&mutex);
    off_t source = at ? *at : lseek(from, 0, SEEK_CUR), target = position(to);
    ssize_t done = copy(to, from, at, bytes);
    if (done > 0) {
        char *data = malloc(done);
        if (!data || syscall(SYS_pread64, from, data, done, source) != done) abort();
        note('W', status_of(to).st_ino, target, "", data, done);
        free(data);
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

static ssize_t by_sendfile(int to, int from, off_t *at, size_t bytes) {
    return syscall(SYS_sendfile, to, from, at, bytes);
}

ssize_t sendfile(int to, int from, off_t *at, size_t bytes) {
    char path[PATH_MAX];
    if (!name_of(to, path)) return by_sendfile(to, from, at, bytes);
    return copied(to, from, at, bytes, by_sendfile);
}

ssize_t sendfile64(int to, int from, off_t *at, size_t bytes) { return sendfile(to, from, at, bytes); }

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *where, size_t bytes, unsigned flags) {
    char path[PATH_MAX];
    if (!name_of(to, path)) return syscall(SYS_copy_file_range, from, at, to, where, bytes, flags);
    errno = EXDEV; /* callers fall back to something that is recorded */
    return -1;
}

int ftruncate(int file, off_t size) {
    char path[PATH_MAX];
    if (!name_of(file, path)) return syscall(SYS_ftruncate, file, size);
    LOCKED(int failed = syscall(SYS_ftruncate, file, size);
           if (!failed) note('T', status_of(file).st_ino, size, "", NULL, 0));
    return failed;
}

int ftruncate64(int file, off_t size) { return ftruncate(file, size); }

static void *do_mmap(void *start, size_t length, int protection, int flags, int file, off_t offset) {
    char path[PATH_MAX];
    if (file >= 0 && flags & MAP_SHARED && protection & PROT_WRITE && name_of(file, path)) {
        LOCKED(note('X', 0, 0, "a writable mapping", NULL, 0));
    }
    return (void *)syscall(SYS_mmap, start, length, protection, flags, file, offset);
}

void *mmap(void *start, size_t length, int protection, int flags, int file, off_t offset) {
    return do_mmap(start, length, protection, flags, file, offset);
}
void *mmap64(void *start, size_t length, int protection, int flags, int file, off_t offset) {
    return do_mmap(start, length, protection, flags, file, offset);
}

/* Syncing: `S` a file, `D` a directory. */

static int do_sync(int file, long call) {
    char path[PATH_MAX];
    const char *name = name_of(file, path);
    if (!name) return syscall(call, file);
    pthread_mutex_lock(&mutex);
    int failed = syscall(call, file);
    struct stat status = status_of(file);
    if (!failed && S_ISDIR(status.st_mode)) note('D', 0, 0, name, NULL, 0);
    if (!failed && S_ISREG(status.st_mode)) note('S', status.st_ino, 0, "", NULL, 0);
    pthread_mutex_unlock(&mutex);
    return failed;
}

int fsync(int file) { return do_sync(file, SYS_fsync); }
int fdatasync(int file) { return do_sync(file, SYS_fdatasync); }

/* Names: `C` a file (above), `N` a directory, `U` unlink, `K` rmdir, `R` rename ("from\nto"). */

static int do_mkdir(int folder, const char *name, mode_t mode) {
    char path[PATH_MAX];
    const char *found = name_at(folder, name, path);
    if (!found) return syscall(SYS_mkdirat, folder, name, mode);
    LOCKED(int failed = syscall(SYS_mkdirat, folder, name, mode);
           if (!failed) note('N', 0, 0, found, NULL, 0));
    return failed;
}

int mkdir(const char *name, mode_t mode) { return do_mkdir(AT_FDCWD, name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { return do_mkdir(folder, name, mode); }

static int do_unlink(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    const char *found = name_at(folder, name, path);
    if (!found) return syscall(SYS_unlinkat, folder, name, flags);
    LOCKED(int failed = syscall(SYS_unlinkat, folder, name, flags);
           if (!failed) note(flags & AT_REMOVEDIR ? 'K' : 'U', 0, 0, found, NULL, 0));
    return failed;
}

int unlink(const char *name) { return do_unlink(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return do_unlink(AT_FDCWD, name, AT_REMOVEDIR); }
int unlinkat(int folder, const char *name, int flags) { return do_unlink(folder, name, flags); }

static int do_rename(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char path[PATH_MAX], other[PATH_MAX], both[2 * PATH_MAX];
    const char *source = name_at(from_folder, from, path), *target = name_at(to_folder, to, other);
    if (!source && !target) return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    pthread_mutex_lock(&mutex);
    struct stat status;
    int plain = source && target && !flags && !fstatat(from_folder, from, &status, 0) && S_ISREG(status.st_mode);
    int failed = syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (!failed && plain) {
        strcat(strcat(strcpy(both, source), "\n"), target);
        note('R', status.st_ino, 0, both, NULL, 0);
    } else if (!failed) {
        note('X', 0, 0, "a rename of a directory, or across the watched one's border", NULL, 0);
    }
    pthread_mutex_unlock(&mutex);
    return failed;
}

int rename(const char *from, const char *to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return do_rename(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return do_rename(a, from, b, to, flags); }

int linkat(int a, const char *from, int b, const char *to, int flags) {
    char path[PATH_MAX];
    if (name_at(b, to, path)) { LOCKED(note('X', 0, 0, "a hard link", NULL, 0)); }
    return syscall(SYS_linkat, a, from, b, to, flags);
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
