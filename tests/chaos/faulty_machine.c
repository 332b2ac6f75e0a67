/* A machine whose disk fills up, fails or loses power, and whose wall clock is wrong: preloaded into our programs by
 * faulty_machine.py. What it does is read from a block that the test shares with the program, so that it changes in
 * mid-run and at once.
 *
 * Only files in one folder are concerned. Their changes can be written down, in order, in a journal: from it the test
 * makes every disk that a power cut could have left. The monotonic clock is never touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The function of this name that we stand before; looked up once. */
#define REAL(name)                                                                                                     \
    (*({                                                                                                               \
        static __typeof__(&name) real;                                                                                 \
        if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                                  \
        real;                                                                                                          \
    }))
#define MAX_FD 4096
#define SECOND 1000000000LL

/* The order of faulty_machine.py. */
struct control {
    volatile int64_t error;          /* errno of what is refused; 0 = all is well */
    volatile int64_t changes_left;   /* so many changes still succeed */
    volatile int64_t changes;        /* counted since the start */
    volatile int64_t refused;        /* the same */
    volatile int64_t clock_shift_ns; /* added to the wall clock */
};
enum change { CREATE = 1, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MAKE_FOLDER };

static struct control *control;
static const char *folder;
static const char *boot_id; /* a file that stands in for the kernel's: another content is another boot */
static int journal = -1;
static pid_t program;
static char *path_of[MAX_FD];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *shared = getenv("FAULTY_CONTROL"), *written = getenv("FAULTY_JOURNAL");
    folder = getenv("FAULTY_FOLDER");
    boot_id = getenv("FAULTY_BOOT_ID");
    program = getpid();
    int fd = shared ? REAL(open)(shared, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *block = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (block != MAP_FAILED) control = block;
    if (written) journal = REAL(open)(written, O_WRONLY | O_APPEND | O_CLOEXEC);
}

static int concerns(const char *path) {
    size_t length = folder ? strlen(folder) : 0;
    return control && length && path && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static const char *named(int fd) { return fd >= 0 && fd < MAX_FD ? path_of[fd] : NULL; }

/* A full disk refuses data only; a failed one refuses every change. */
static int refuses(int is_data) {
    control->changes++;
    if (!control->error || (control->error == ENOSPC && !is_data)) return 0;
    if (control->changes_left > 0) {
        control->changes_left--;
        return 0;
    }
    control->refused++;
    errno = (int)control->error;
    return 1;
}

static void note(enum change what, const char *path, const char *to, int64_t at, const void *data, size_t size) {
    if (journal < 0) return;
    int kept = errno;
    uint32_t head[4] = {what, (uint32_t)strlen(path), to ? (uint32_t)strlen(to) : 0, (uint32_t)size};
    struct iovec parts[5] = {{head, sizeof head}, {&at, sizeof at}, {(void *)path, head[1]}, {(void *)to, head[2]},
                             {(void *)data, size}};
    if (REAL(writev)(journal, parts, 5) < 0) abort();
    errno = kept;
}

/* --- the disk ---------------------------------------------------------------------------------------------------- */

static int opened(const char *path, int flags, mode_t mode) {
    if (boot_id && path && !strcmp(path, "/proc/sys/kernel/random/boot_id")) path = boot_id;
    if (!concerns(path)) return REAL(open)(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int is_new = (flags & O_CREAT) && stat(path, &before) != 0;
    int changes = is_new || (flags & O_TRUNC);
    int fd = -1;
    /* A disk that is read-only refuses to open for writing even what is not changed. */
    if (!changes && (flags & O_ACCMODE) != O_RDONLY && control->error == EROFS && control->changes_left <= 0) {
        control->refused++;
        errno = EROFS;
    } else if (!changes || !refuses(0)) {
        fd = REAL(open)(path, flags, mode);
    }
    if (fd >= 0 && fd < MAX_FD) {
        free(path_of[fd]);
        path_of[fd] = strdup(path);
        if (is_new) note(CREATE, path, NULL, 0, NULL, 0);
        else if (flags & O_TRUNC) note(TRUNCATE, path, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name, before, call)                                                                                       \
    int name before {                                                                                                  \
        mode_t mode = 0;                                                                                               \
        if (flags & O_CREAT) {                                                                                         \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = (mode_t)va_arg(rest, int);                                                                          \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        return call;                                                                                                   \
    }
OPEN(open, (const char *path, int flags, ...), opened(path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), opened(path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...),
     concerns(path) ? opened(path, flags, mode) : REAL(openat)(at, path, flags, mode))

int close(int fd) {
    if (named(fd) && getpid() == program) { /* between vfork and exec the memory is still our parent's */
        pthread_mutex_lock(&lock);
        free(path_of[fd]);
        path_of[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return REAL(close)(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (!named(fd)) return REAL(write)(fd, data, size);
    pthread_mutex_lock(&lock);
    ssize_t written = refuses(1) ? -1 : REAL(write)(fd, data, size);
    if (written > 0) note(WRITE, named(fd), NULL, lseek(fd, 0, SEEK_CUR) - written, data, (size_t)written);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (!named(fd)) return REAL(pwrite64)(fd, data, size, at);
    pthread_mutex_lock(&lock);
    ssize_t written = refuses(1) ? -1 : REAL(pwrite64)(fd, data, size, at);
    if (written > 0) note(WRITE, named(fd), NULL, at, data, (size_t)written);
    pthread_mutex_unlock(&lock);
    return written;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

#define CHANGE(is_data, call, ...)                                                                                     \
    pthread_mutex_lock(&lock);                                                                                         \
    int result = refuses(is_data) ? -1 : (call);                                                                       \
    if (!result) note(__VA_ARGS__);                                                                                    \
    pthread_mutex_unlock(&lock);                                                                                       \
    return result;

int ftruncate64(int fd, off64_t size) {
    if (!named(fd)) return REAL(ftruncate64)(fd, size);
    CHANGE(0, REAL(ftruncate64)(fd, size), TRUNCATE, named(fd), NULL, size, NULL, 0)
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) {
    if (!named(fd)) return REAL(fsync)(fd);
    CHANGE(0, REAL(fsync)(fd), SYNC, named(fd), NULL, 0, NULL, 0)
}
int fdatasync(int fd) { return fsync(fd); }

int rename(const char *from, const char *to) {
    if (!concerns(to)) return REAL(rename)(from, to);
    CHANGE(0, REAL(rename)(from, to), RENAME, from, to, 0, NULL, 0)
}
int renameat(int at, const char *from, int to_at, const char *to) {
    return concerns(to) ? rename(from, to) : REAL(renameat)(at, from, to_at, to);
}

int unlink(const char *path) {
    if (!concerns(path)) return REAL(unlink)(path);
    CHANGE(0, REAL(unlink)(path), UNLINK, path, NULL, 0, NULL, 0)
}

int mkdir(const char *path, mode_t mode) {
    if (!concerns(path)) return REAL(mkdir)(path, mode);
    CHANGE(0, REAL(mkdir)(path, mode), MAKE_FOLDER, path, NULL, 0, NULL, 0)
}

/* --- the wall clock ---------------------------------------------------------------------------------------------- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (!result && is_wall && control && control->clock_shift_ns) {
        int64_t ns = now->tv_sec * SECOND + now->tv_nsec + control->clock_shift_ns;
        now->tv_sec = ns / SECOND;
        now->tv_nsec = ns % SECOND;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}
