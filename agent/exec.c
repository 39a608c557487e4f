/* exec CONTROL_DIR [--after GATE_DIR] [--timeout SECONDS] [--view DIR] -- COMMAND [ARG...]: the wrapper of a task's
 * command in a container.
 * exec --placed GATE_DIR: the hook of fetch's container; returns once the task's container may be made.
 *
 * It keeps the rules of agent/control.py, as agent/wrapper.py does in local mode: the lock is held from before `started`
 * exists until this process is gone; `exit` is written whole before that. The command gets a session of its own, the
 * working folder and the environment as they are, and neither the lock nor any other descriptor of ours.
 *
 * With --after, the command waits for fetch, which runs beside it, and is not run when fetch has failed (agent/gate.py).
 *
 * A view of the node's cache is held by a shared lock on its folder, as long and in the same way: agent/keep.py removes
 * what nobody holds any more.
 *
 * It also reaps orphans, and at the command's end it kills all that is left: as a container's first process whatever is
 * in the container, else every process below it, for which it adopts orphans. The kernel closes the lock of a dying
 * first process before it kills the others, and until then they could still write to outputs that are being stored.
 *
 * Exit codes are the command's; 128+n for a signal, 124 for a timeout, 126 and 127 for a command that cannot be run or
 * found, and 125 when the wrapper itself cannot do its work, in which case the command was not run. It is linked
 * statically, since it runs in images of which nothing is known.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TIMED_OUT = 124, CANNOT_WRAP = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127 };

enum { GRACE_MS = 5000, VIEW_PATIENCE_MS = 5000, PAUSE_MS = 5 };

#ifndef PLACED_PATIENCE_MS /* a test has less */
#define PLACED_PATIENCE_MS 30000
#endif

/* Longer reasons are cut: a command's name may be of any length, the exit record may not. */
enum { REASON_BYTES = 1024 };

static const long long FOREVER = -1;

/* An image may name any of these as its stop signal. */
static const int FORWARDED[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
enum { FORWARDED_COUNT = sizeof FORWARDED / sizeof *FORWARDED };

static const char *const SIGNAL_NAMES[] = {
    [SIGHUP] = "HUP",   [SIGINT] = "INT",   [SIGQUIT] = "QUIT", [SIGILL] = "ILL",       [SIGTRAP] = "TRAP",
    [SIGABRT] = "ABRT", [SIGBUS] = "BUS",   [SIGFPE] = "FPE",   [SIGKILL] = "KILL",     [SIGUSR1] = "USR1",
    [SIGSEGV] = "SEGV", [SIGUSR2] = "USR2", [SIGPIPE] = "PIPE", [SIGALRM] = "ALRM",     [SIGTERM] = "TERM",
    [SIGCHLD] = "CHLD", [SIGCONT] = "CONT", [SIGSTOP] = "STOP", [SIGTSTP] = "TSTP",     [SIGTTIN] = "TTIN",
    [SIGTTOU] = "TTOU", [SIGURG] = "URG",   [SIGXCPU] = "XCPU", [SIGXFSZ] = "XFSZ",     [SIGVTALRM] = "VTALRM",
    [SIGPROF] = "PROF", [SIGIO] = "IO",     [SIGPWR] = "PWR",   [SIGWINCH] = "WINCH",   [SIGSYS] = "SYS",
};

struct job {
  const char *control_dir;
  const char *view;     /* or NULL */
  const char *gate_dir; /* or NULL */
  long long timeout_ms; /* or FOREVER */
  char **command;
};

struct record {
  int exit_code, signal, timed_out;
  long long cpu_ms, peak_memory_bytes, started_at, ended_at;
  char error[REASON_BYTES]; /* why the command could not be run at all; empty when it could */
};

static long long now_ms(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...) {
  char line[REASON_BYTES + PATH_MAX];
  va_list words;
  va_start(words, format);
  vsnprintf(line, sizeof line, format, words);
  va_end(words);
  dprintf(STDERR_FILENO, "[HELIOS] %s\n", line);
}

/* Seconds like 90 or 0.5, as milliseconds; FOREVER for anything else. */
static long long milliseconds(const char *text) {
  long long ms = 0, unit = 1000;
  int point = 0;
  if (!*text || strlen(text) > 16) return FOREVER;
  for (; *text; text++) {
    if (*text == '.' && !point) {
      point = 1;
    } else if (*text < '0' || *text > '9') {
      return FOREVER;
    } else if (!point) {
      ms = ms * 10 + (*text - '0') * 1000LL;
    } else {
      ms += (*text - '0') * (unit /= 10);
    }
  }
  return ms;
}

static int parse(int argc, char **argv, struct job *job) {
  int next = 2;
  job->timeout_ms = FOREVER;
  job->view = job->gate_dir = NULL;
  for (; argc > next + 1 && strcmp(argv[next], "--"); next += 2) {
    if (!strcmp(argv[next], "--view")) {
      job->view = argv[next + 1];
    } else if (!strcmp(argv[next], "--after")) {
      job->gate_dir = argv[next + 1];
    } else if (strcmp(argv[next], "--timeout")) {
      break;
    } else if ((job->timeout_ms = milliseconds(argv[next + 1])) == FOREVER) {
      complain("--timeout must be a number of seconds");
      return -1;
    }
  }
  if (argc < next + 2 || strcmp(argv[next], "--")) {
    complain("usage: exec CONTROL_DIR [--after GATE_DIR] [--timeout SECONDS] [--view DIR] -- COMMAND [ARG...]");
    return -1;
  }
  job->control_dir = argv[1];
  job->command = argv + next + 1;
  return 0;
}

/* The descriptor of a file in a folder, which is never a link; -1 when there is none. */
static int open_in(const char *folder, const char *name, int flags) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  return open(path, flags | O_NOFOLLOW | O_CLOEXEC, 0644);
}

static int open_control(const struct job *job, const char *name, int flags) {
  return open_in(job->control_dir, name, flags | O_CREAT);
}

static int exists_in(const char *folder, const char *name) {
  int found = open_in(folder, name, O_RDONLY);
  if (found >= 0) close(found);
  return found >= 0;
}

static void wait_a_little(void) {
  const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000};
  nanosleep(&pause, NULL);
}

/* The hook: says who it is, so that fetch can let it return before it ends itself, and waits. */
static int wait_until_placed(const char *gate_dir) {
  long long deadline = now_ms(CLOCK_MONOTONIC) + PLACED_PATIENCE_MS;
  int hook = open_in(gate_dir, "hook", O_WRONLY | O_CREAT);
  if (hook < 0 || dprintf(hook, "%d", getpid()) < 0 || close(hook) < 0) {
    complain("the hook cannot tell fetch of itself: %s: %s", strerror(errno), gate_dir);
    return CANNOT_WRAP;
  }
  while (!exists_in(gate_dir, "placed")) {
    if (now_ms(CLOCK_MONOTONIC) >= deadline) {
      complain("fetch did not put the task's wrapper in place within %d s", PLACED_PATIENCE_MS / 1000);
      return CANNOT_WRAP;
    }
    wait_a_little();
  }
  return 0;
}

/* Waits until fetch is done or dead. 0 when the command may start, else the code to exit with. `waited` are blocked. */
static int wait_for_fetch(const char *gate_dir, const sigset_t *waited) {
  const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000};
  int fetching = open_in(gate_dir, "fetching", O_RDONLY);
  while (fetching >= 0 && flock(fetching, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
    int number = sigtimedwait(waited, NULL, &pause);
    if (number == SIGTERM || number == SIGINT || number == SIGHUP || number == SIGQUIT) return 128 + number;
  }
  if (fetching >= 0) close(fetching);
  if (exists_in(gate_dir, "fetched")) return 0;
  complain("the task was not run: its inputs are not there");
  return CANNOT_WRAP;
}

/* Holds the view to the process's end. One that cannot be held is only removed later than it could be. */
static void hold_view(const char *path) {
  long long deadline = now_ms(CLOCK_MONOTONIC) + VIEW_PATIENCE_MS;
  int view = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (view < 0) return;
  /* The keeper's look at a view keeps it for some microseconds, which must not be what a task's whole life depends on. */
  while (flock(view, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK && now_ms(CLOCK_MONOTONIC) < deadline) {
    wait_a_little();
  }
}

/* Takes the locks, which are left to the process's end, and only then marks the start. */
static int begin(const struct job *job) {
  if (job->view) hold_view(job->view);
  int lock = open_control(job, "lock", O_RDWR), started;
  if (lock < 0 || flock(lock, LOCK_EX) < 0 || (started = open_control(job, "started", O_WRONLY)) < 0) return -1;
  close(started);
  return 0;
}

/* Blocks the signals to wait for. Blocked ones are kept even for a container's first process, which has no defaults. */
static void block(sigset_t *waited, sigset_t *former) {
  sigemptyset(waited);
  sigaddset(waited, SIGCHLD);
  for (int i = 0; i < FORWARDED_COUNT; i++) sigaddset(waited, FORWARDED[i]);
  sigprocmask(SIG_BLOCK, waited, former);
  signal(SIGCHLD, SIG_DFL); /* An inherited SIG_IGN would reap the command without a word. */
}

/* `name` in single quotes, in ASCII and on one line, whatever it holds. */
static void quote(const char *name, char *to, size_t size) {
  char *end = to + size - 8;
  *to++ = '\'';
  for (; *name && to < end; name++) {
    unsigned char byte = *name;
    if (byte == '\'' || byte == '\\') *to++ = '\\';
    if (byte >= ' ' && byte < 127) *to++ = byte;
    else to += sprintf(to, "\\x%02x", byte);
  }
  strcpy(to, *name ? "...'" : "'");
}

/* In the child, never returns; a failure goes up the pipe that a good exec closes. */
static void become(char **command, const sigset_t *mask, int tell) {
  char name[REASON_BYTES / 2], words[REASON_BYTES];
  int code = CANNOT_WRAP, nothing, length, why;
  setsid();
  /* A command that ignores every other signal still ends with a wrapper that is killed. */
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if ((nothing = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) dup2(nothing, STDIN_FILENO);
  sigprocmask(SIG_SETMASK, mask, NULL);
  execvp(command[0], command);
  why = errno;
  quote(command[0], name, sizeof name);
  if (why == ENOENT || why == ENOTDIR) {
    code = NOT_FOUND;
    length = snprintf(words, sizeof words, "command not found: %s", name);
  } else if (why == EACCES || why == ENOEXEC || why == EISDIR) {
    code = NOT_EXECUTABLE;
    length = snprintf(words, sizeof words, "command cannot be executed: %s: %s", name, strerror(why));
  } else {
    length = snprintf(words, sizeof words, "command could not be started: %s: %s", name, strerror(why));
  }
  if (write(tell, words, length) < 0) complain("%s", words);
  _exit(code);
}

/* Forks and executes; `error` says why the command could not be executed. The pid is to be waited for in both cases. */
static pid_t start(char **command, const sigset_t *mask, char *error, size_t size) {
  int pipe_ends[2];
  ssize_t got;
  pid_t pid;
  if (pipe2(pipe_ends, O_CLOEXEC) < 0 || (pid = fork()) < 0) return -1;
  if (pid == 0) become(command, mask, pipe_ends[1]);
  close(pipe_ends[1]);
  /* From here on the command has its session: the pipe is closed by exec, or by the child's end. */
  got = read(pipe_ends[0], error, size - 1);
  error[got > 0 ? got : 0] = '\0';
  close(pipe_ends[0]);
  if (*error) complain("%s", error);
  return pid;
}

/* Whether the command has ended; it stays a zombie, so that its group's id is given to nobody else. Reaps all others. */
static int has_ended(pid_t command) {
  siginfo_t child = {0};
  while (waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) == 0 && child.si_pid != 0) {
    if (child.si_pid == command) return 1;
    waitpid(child.si_pid, NULL, 0);
    child.si_pid = 0;
  }
  return 0;
}

/* The next of the waited signals, or -1 when the deadline (FOREVER: none) is there first. */
static int next_signal(const sigset_t *waited, long long deadline) {
  if (deadline == FOREVER) return sigwaitinfo(waited, NULL);
  long long left = deadline - now_ms(CLOCK_MONOTONIC);
  if (left < 0) left = 0;
  struct timespec pause = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
  return sigtimedwait(waited, NULL, &pause);
}

/* Waits for the command's end, forwarding signals and keeping the deadlines. Returns whether it timed out. */
static int watch(pid_t command, const sigset_t *waited, long long timeout_ms) {
  long long deadline = timeout_ms == FOREVER ? FOREVER : now_ms(CLOCK_MONOTONIC) + timeout_ms;
  int timed_out = 0;
  while (!has_ended(command)) {
    int number = next_signal(waited, deadline);
    if (number > 0 && number != SIGCHLD) kill(-command, number);
    if (deadline == FOREVER || now_ms(CLOCK_MONOTONIC) < deadline) continue;
    kill(-command, timed_out ? SIGKILL : SIGTERM);
    deadline = timed_out ? FOREVER : now_ms(CLOCK_MONOTONIC) + GRACE_MS;
    timed_out = 1;
  }
  return timed_out;
}

/* The parent of a process by its number, or -1 when it is gone. */
static pid_t parent_of(const char *number) {
  char path[64], text[512], *after;
  int fd;
  ssize_t length;
  if (snprintf(path, sizeof path, "/proc/%s/stat", number) >= (int)sizeof path) return -1;
  if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) return -1;
  length = read(fd, text, sizeof text - 1);
  close(fd);
  text[length > 0 ? length : 0] = '\0';
  /* The name before it may hold anything, also brackets. */
  return (after = strrchr(text, ')')) && strlen(after) > 4 ? atoi(after + 4) : -1;
}

/* Kills the children; theirs are adopted then, and children the next time. */
static void kill_children(void) {
  DIR *processes = opendir("/proc");
  struct dirent *each;
  if (!processes) return;
  while ((each = readdir(processes))) {
    if (*each->d_name >= '0' && *each->d_name <= '9' && parent_of(each->d_name) == getpid()) {
      kill(atoi(each->d_name), SIGKILL);
    }
  }
  closedir(processes);
}

/* Kills what the command left behind and returns the command's wait status. What it cannot kill it leaves in the end. */
static int clean_up(pid_t command, const sigset_t *waited) {
  long long deadline = now_ms(CLOCK_MONOTONIC) + GRACE_MS;
  int status = 0;
  kill(-command, SIGKILL);
  if (getpid() == 1) kill(-1, SIGKILL);
  while (waitpid(command, &status, 0) < 0 && errno == EINTR) {}
  for (;;) {
    pid_t reaped = waitpid(-1, NULL, WNOHANG);
    if (reaped < 0 || now_ms(CLOCK_MONOTONIC) >= deadline) return status;
    if (reaped > 0) continue;
    if (getpid() != 1) kill_children();
    next_signal(waited, deadline);
  }
}

static void take_account(struct record *record, int status) {
  struct rusage usage;
  getrusage(RUSAGE_CHILDREN, &usage);
  record->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  record->exit_code = record->timed_out ? TIMED_OUT : record->signal ? 128 + record->signal : WEXITSTATUS(status);
  record->cpu_ms = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000LL +
                   (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
  record->peak_memory_bytes = usage.ru_maxrss * 1024LL;
  record->ended_at = now_ms(CLOCK_REALTIME);
}

static void name_signal(int number, char *to, size_t size) {
  int known = number < (int)(sizeof SIGNAL_NAMES / sizeof *SIGNAL_NAMES) && SIGNAL_NAMES[number];
  if (!number) snprintf(to, size, "null");
  else if (known) snprintf(to, size, "\"SIG%s\"", SIGNAL_NAMES[number]);
  else snprintf(to, size, "\"SIG%d\"", number);
}

/* The reason as the last field of the record, or nothing. It is ASCII without control characters (see quote). */
static void add_error(const char *error, char *to) {
  if (!*error) {
    *to = '\0';
    return;
  }
  to = stpcpy(to, ", \"error\": \"");
  for (; *error; error++) {
    if (*error == '"' || *error == '\\') *to++ = '\\';
    *to++ = *error;
  }
  strcpy(to, "\"");
}

/* Writes `exit` so that a reader sees all of it or none. */
static int write_record(const struct job *job, const struct record *record) {
  char text[4 * REASON_BYTES], name[32], error[2 * REASON_BYTES + 32], beside[PATH_MAX], whole[PATH_MAX];
  name_signal(record->signal, name, sizeof name);
  add_error(record->error, error);
  int length = snprintf(text, sizeof text,
                        "{\"exitCode\": %d, \"signal\": %s, \"timedOut\": %s, \"cpuMs\": %lld, \"peakMemoryBytes\": "
                        "%lld, \"startedAt\": %lld, \"endedAt\": %lld%s}",
                        record->exit_code, name, record->timed_out ? "true" : "false", record->cpu_ms,
                        record->peak_memory_bytes, record->started_at, record->ended_at, error);
  snprintf(beside, sizeof beside, "%s/exit.new", job->control_dir);
  snprintf(whole, sizeof whole, "%s/exit", job->control_dir);
  unlink(beside);
  int fd = open_control(job, "exit.new", O_WRONLY | O_EXCL);
  if (fd < 0) return -1;
  int written = write(fd, text, length) == length;
  return close(fd) == 0 && written && rename(beside, whole) == 0 ? 0 : -1;
}

int main(int argc, char **argv) {
  struct job job;
  struct record record = {0};
  sigset_t waited, former;
  int refused;
  if (argc == 3 && !strcmp(argv[1], "--placed")) return wait_until_placed(argv[2]);
  if (parse(argc, argv, &job) < 0) return CANNOT_WRAP;
  block(&waited, &former);
  if (job.gate_dir && (refused = wait_for_fetch(job.gate_dir, &waited))) return refused;
  if (begin(&job) < 0) {
    complain("the task was not run: %s: %s", strerror(errno), job.control_dir);
    return CANNOT_WRAP;
  }
  if (getpid() != 1) prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  record.started_at = now_ms(CLOCK_REALTIME);
  pid_t command = start(job.command, &former, record.error, sizeof record.error);
  if (command < 0) {
    complain("the task was not run: %s", strerror(errno));
    return CANNOT_WRAP;
  }
  record.timed_out = watch(command, &waited, job.timeout_ms);
  take_account(&record, clean_up(command, &waited));
  /* Without a record publish fails the attempt; the command's own exit code is still worth having. */
  if (write_record(&job, &record) < 0) complain("the exit record cannot be written: %s", strerror(errno));
  return record.exit_code;
}
