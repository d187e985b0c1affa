/* A guest whose kernel is its attacker's: without an agent, it drives its machine's devices in ring 0 with random and malicious
 * sequences, for ever. Entered as PVH has it: 32 bits, no paging, interrupts off. A dot on the serial port for each 1000 rounds.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;

__asm__(".globl _start\n_start: mov $0x2000000, %esp\njmp begin");

enum { DEVICES = 24, QUEUES = 9, ENTRIES = 16 };
enum { MMIO = 0xd0000000, RINGS = 0x2000000, RINGS_OF_A_DEVICE = 0x40000, RINGS_OF_A_QUEUE = 0x4000, RAM = 0x7000000 };
/* Registers and states of a device (virtio 1.2, 4.2.2 and 2.1). */
enum {
  DRIVER_FEATURES = 0x020, DRIVER_FEATURES_SEL = 0x024, QUEUE_SEL = 0x030, QUEUE_NUM = 0x038, QUEUE_READY = 0x044,
  QUEUE_NOTIFY = 0x050, STATUS = 0x070, QUEUE_DESC = 0x080, QUEUE_DRIVER = 0x090, QUEUE_DEVICE = 0x0a0,
};
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

static u32 state;
static u32 random(void) {
  state ^= state << 13; state ^= state >> 17; state ^= state << 5;
  return state;
}
static u32 below(u32 most) { return random() % most; }

static volatile u32 *at(u32 address) { return (volatile u32 *)address; }
static void set(u32 device, u32 offset, u32 value) { *at(MMIO + device * 0x1000 + offset) = value; }
static u32 rings(u32 device, u32 queue) { return RINGS + device * RINGS_OF_A_DEVICE + queue * RINGS_OF_A_QUEUE; }

static u32 address(void) {
  switch (below(4)) {
    case 0: return random();
    case 1: return 0xfffffff0 + below(16);
    default: return RINGS + below(RAM - RINGS);
  }
}

static void any_register(u32 device) {
  u32 where = MMIO + device * 0x1000 + below(0x180);
  switch (below(3)) {
    case 0: *(volatile u8 *)where = random(); break;
    case 1: *(volatile u16 *)where = random(); break;
    default: *(volatile u32 *)(where & ~3u) = below(2) ? random() : below(16);
  }
}

static void fill(u32 device, u32 queue) {
  u32 base = rings(device, queue);
  for (u32 n = 0; n < ENTRIES; n++) {
    volatile u32 *entry = at(base + n * 16);
    entry[0] = address();
    entry[1] = below(8) ? 0 : random();
    entry[2] = below(2) ? below(0x10000) * 16 : random();
    entry[3] = below(8) | below(ENTRIES + 2) << 16;
    *(volatile u16 *)(base + 0x1000 + 4 + n * 2) = below(ENTRIES + 2);
  }
  *(volatile u16 *)(base + 0x1000 + 2) = below(4) ? below(ENTRIES + 1) : random();
}

static void activate(u32 device) {
  set(device, STATUS, 0); set(device, STATUS, 1); set(device, STATUS, 3);
  set(device, DRIVER_FEATURES_SEL, 0);
  set(device, DRIVER_FEATURES, below(2) ? 0 : random());
  set(device, DRIVER_FEATURES_SEL, 1);
  set(device, DRIVER_FEATURES, 1);
  set(device, STATUS, 11);
  for (u32 queue = 0; queue < QUEUES; queue++) {
    u32 base = below(8) ? rings(device, queue) : address();
    fill(device, queue);
    set(device, QUEUE_SEL, queue);
    set(device, QUEUE_NUM, below(8) ? ENTRIES : random());
    set(device, QUEUE_DESC, base); set(device, QUEUE_DRIVER, base + 0x1000); set(device, QUEUE_DEVICE, base + 0x2000);
    set(device, QUEUE_READY, 1);
  }
  set(device, STATUS, 15);
}

/* Keeps a device busy with long chains while it is taken away. */
static void refill(u32 device) {
  for (u32 queue = 0; queue < 3; queue++) {
    u32 base = rings(device, queue);
    for (u32 n = 0; n < ENTRIES; n++) {
      volatile u32 *entry = at(base + n * 16);
      u32 indirect = below(4) == 0;
      entry[0] = RINGS; entry[1] = 0;
      entry[2] = indirect ? 0xffff0 : 0;
      entry[3] = indirect ? INDIRECT : NEXT | below(2) * WRITE | (n + 1) % ENTRIES << 16;
    }
  }
  for (u32 round = 0; round < 2000; round++) {
    u32 queue = below(3), base = rings(device, queue);
    *(volatile u16 *)(base + 0x1000 + 2) = *(volatile u16 *)(base + 0x2000 + 2) + ENTRIES;
    set(device, QUEUE_NOTIFY, queue);
  }
  set(device, STATUS, 0);
}

void begin(void) {
  __asm__ volatile("rdtsc" : "=a"(state) : : "edx");
  state |= 1;
  for (u32 round = 1;; round++) {
    u32 device = below(DEVICES);
    switch (below(4)) {
      case 0: any_register(device); break;
      case 1: activate(device); break;
      case 2: fill(device, below(QUEUES)); set(device, QUEUE_NOTIFY, below(QUEUES)); break;
      default: activate(device); refill(device);
    }
    if (round % 1000 == 0) __asm__ volatile("outb %%al, %%dx" : : "a"('.'), "d"(0x3f8));
  }
}
