/* The first process of a guest whose agent is an attacker's: it takes the host's connections and treats all alike, as MODE says.
 *
 *     SILENT    takes what is said, and answers nothing
 *     NOISE     answers without end with what is no message
 *     GIANT     announces a message of 4 GiB, and sends on
 *     YES       answers each request at once that it is done, with nothing to tell
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

enum { SILENT, NOISE, GIANT, YES };
enum { PORT = 1024, HEADER = 10, RESPONSE = 2, LENGTH_MAX = 4 << 20 };

static int read_whole(int fd, unsigned char *out, size_t length) {
  while (length > 0) {
    ssize_t count = read(fd, out, length);
    if (count <= 0) return 0;
    out += count;
    length -= count;
  }
  return 1;
}

static void take_all(int fd) {
  unsigned char taken[4096];
  while (read(fd, taken, sizeof taken) > 0) {}
}

static void send_noise(int fd) {
  uint64_t noise[512], state = 88172645463325252u;
  for (;;) {
    for (size_t i = 0; i < 512; i++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      noise[i] = state;
    }
    if (write(fd, noise, sizeof noise) <= 0) return;
  }
}

/* A response with neither status nor payload is a good one (ttrpc's `Response`): its header has the request's stream. */
static void say_yes(int fd) {
  static unsigned char body[LENGTH_MAX];
  unsigned char header[HEADER];
  while (read_whole(fd, header, HEADER)) {
    uint32_t length = (uint32_t)header[0] << 24 | header[1] << 16 | header[2] << 8 | header[3];
    if (length > LENGTH_MAX || !read_whole(fd, body, length)) return;
    memset(header, 0, 4);
    header[8] = RESPONSE;
    header[9] = 0;
    if (write(fd, header, HEADER) != HEADER) return;
  }
}

static void *serve(void *argument) {
  static const unsigned char giant[HEADER] = { 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, RESPONSE, 0 };
  int fd = (int)(intptr_t)argument;
  if (MODE == SILENT) take_all(fd);
  if (MODE == NOISE || (MODE == GIANT && write(fd, giant, HEADER) == HEADER)) send_noise(fd);
  if (MODE == YES) say_yes(fd);
  close(fd);
  return NULL;
}

int main(void) {
  struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_port = PORT, .svm_cid = VMADDR_CID_ANY };
  int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 16) != 0) return 1;
  for (;;) {
    pthread_t thread;
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0 && pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0) pthread_detach(thread);
  }
}
