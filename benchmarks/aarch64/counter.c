// QEMU plugin (API 1, QEMU 7.2 and later): running totals of executed AArch64 instructions, written out as a line to
// the file named by COUNTS each time the guest calls getppid(). The guest so marks what lies between two lines.
// Columns: all, SIMD and floating-point data processing, loads and stores, 128-bit FMLA, 128-bit SDOT/UDOT/SMLAL-like.
// Encodings: Arm Architecture Reference Manual, DDI 0487, "Top-level encodings for A64".
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;
typedef void (*on_block)(plugin_id, struct block *);
typedef void (*on_syscall)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_block);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern const void *qemu_plugin_insn_data(const struct instruction *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);

#define SHOWN __attribute__((visibility("default")))
SHOWN int qemu_plugin_version = 1;

enum { ALL, SIMD, MEMORY, FMLA, INT8, KINDS };
enum { ADD = 0, GETPPID = 173 };
static uint64_t totals[KINDS];
static FILE *out;

static int is_fmla(uint32_t w) {
    return (w & 0xbfa0fc00) == 0x0e20cc00 /* vector */ || (w & 0xbf80f400) == 0x0f801000 /* by element */;
}

static int is_int8(uint32_t w) {
    return (w & 0x9f20fc00) == 0x0e009400 /* SDOT, UDOT */ || (w & 0x9f00f400) == 0x0f00e000 /* by element */
        || (w & 0x9f20fc00) == 0x0e208000 /* SMLAL, UMLAL */ || (w & 0x9f00f400) == 0x0f002000 /* by element */
        || (w & 0x9f20fc00) == 0x0e20c000 /* SMULL, UMULL */;
}

static void translated(plugin_id id, struct block *block) {
    uint64_t found[KINDS] = {0};
    size_t n = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t i = 0; i < n; i++) {
        uint32_t w = *(const uint32_t *)qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i));
        uint32_t group = w >> 25 & 15;
        found[ALL]++;
        found[SIMD] += (group & 7) == 7;
        found[MEMORY] += (group & 5) == 4;
        found[FMLA] += is_fmla(w);
        found[INT8] += is_int8(w);
    }
    for (int kind = 0; kind < KINDS; kind++)
        if (found[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &totals[kind], found[kind]);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != GETPPID)
        return;
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(out, "%" PRIu64 "%c", totals[kind], kind + 1 < KINDS ? ',' : '\n');
    fflush(out);
}

SHOWN int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    const char *path = getenv("COUNTS");
    out = path ? fopen(path, "w") : NULL;
    if (!out)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
