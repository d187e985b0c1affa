/* Asks for a socket of AF_VSOCK and connects it to a peer's port 1024, by system calls of its own. Built for 64 and for 32 bits;
 * the latter asks through socketcall(2), as the C library of 32-bit programs does. Its status is the error with which it was
 * refused, plus 128 if that was the connection; 0 if it was connected.
 *
 *     vsock CID             a digit
 *     vsock CID x           with bits beyond those that the kernel takes for the family
 */
enum { AF_VSOCK = 40, SOCK_STREAM = 1, PORT = 1024 };

struct address { unsigned short family, reserved; unsigned port, cid; unsigned char zero[4]; };

#ifdef __x86_64__
static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}
static long make_socket(long family) { return call(41, family, SOCK_STREAM, 0); }
static long connect(long fd, struct address *to) { return call(42, fd, (long)to, sizeof *to); }
static void end(long status) { for (;;) call(231, status, 0, 0); }
__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall begin");
#else
static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
  return result;
}
static long socketcall(long what, long a, long b, long c) {
  volatile long arguments[3] = { a, b, c };
  return call(102, what, (long)arguments, 0);
}
static long make_socket(long family) { return socketcall(1, family, SOCK_STREAM, 0); }
static long connect(long fd, struct address *to) { return socketcall(3, fd, (long)to, sizeof *to); }
static void end(long status) { for (;;) call(252, status, 0, 0); }
__asm__(".globl _start\n_start: mov %esp, %eax\nand $-16, %esp\nsub $12, %esp\npush %eax\ncall begin");
#endif

void begin(long *stack) {
  char **arguments = (char **)(stack + 1);
  long family = AF_VSOCK;
  if (sizeof family > 4 && stack[0] > 2) family |= 1L << (sizeof family * 4);
  long fd = make_socket(family);
  if (fd < 0) end(-fd);
  struct address to = { AF_VSOCK, 0, PORT, (unsigned)(arguments[1][0] - '0'), { 0 } };
  long connected = connect(fd, &to);
  end(connected < 0 ? 128 - connected : 0);
}
