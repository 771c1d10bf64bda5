/*
 * A plugin for QEMU's TCG that counts the instructions of a guest since the kernel's exec of /init, by system call
 * and by function. Started by qemu/profile; the guest runs without KASLR.
 *
 * SYMBOLS names a file of lines "address type name", as /proc/kallsyms and nm print them, sorted by address; PROFILE
 * names the output file. The guest must have one processor. Instructions of kernel threads and interrupts count for
 * the system call that they interrupt.
 *
 * The few declarations needed are those of qemu-plugin.h, which Debian does not package.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif

struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned int, void *),
						 int, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);

#define PUBLIC __attribute__((visibility("default")))

PUBLIC int qemu_plugin_version = PLUGIN_VERSION;

/* What starts at the first instruction of a translated block. */
enum kind { NOTHING, START, SYSTEM_CALL, WHICH_CALL, PAGE_FAULT };

struct symbol {
	uint64_t address, instructions, calls;
	char name[96];
};

struct block {
	uint64_t instructions;
	struct symbol *symbol;
	enum kind kind;
	bool user;
};

static struct symbol *symbols;
static size_t symbol_count;
static FILE *out;

static bool started;
static uint64_t total, user, faults;
/* The counts at the previous system call, and its name. */
static uint64_t total_before, user_before;
static const char *call = "exec";
static bool which;

static void print_call(void)
{
	fprintf(out, "%10lu %9lu %9lu %4lu  %s\n", total_before, total - total_before, user - user_before,
		faults, call);
	total_before = total;
	user_before = user;
	faults = 0;
}

static void executed(unsigned int cpu, void *data)
{
	const struct block *block = data;

	(void)cpu;
	if (block->kind == START)
		started = true;
	if (!started)
		return;
	if (block->kind == SYSTEM_CALL) {
		print_call();
		call = "?";
		which = true;
	} else if (block->kind == WHICH_CALL && which) {
		call = block->symbol->name + strlen("__x64_sys_");
		which = false;
	} else if (block->kind == PAGE_FAULT) {
		faults++;
	}
	total += block->instructions;
	if (block->user)
		user += block->instructions;
	if (block->symbol)
		block->symbol->instructions += block->instructions;
}

static struct symbol *symbol_of(uint64_t address)
{
	size_t low = 0, high = symbol_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (symbols[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &symbols[low - 1] : NULL;
}

static enum kind kind_of(const struct symbol *symbol, uint64_t address)
{
	if (!symbol || symbol->address != address)
		return NOTHING;
	if (!strcmp(symbol->name, "run_init_process"))
		return START;
	if (!strcmp(symbol->name, "do_syscall_64"))
		return SYSTEM_CALL;
	if (!strncmp(symbol->name, "__x64_sys_", strlen("__x64_sys_")))
		return WHICH_CALL;
	return strcmp(symbol->name, "asm_exc_page_fault") ? NOTHING : PAGE_FAULT;
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	/* Never freed: QEMU may run the blocks until it exits. */
	struct block *block = calloc(1, sizeof(*block));
	uint64_t address = qemu_plugin_tb_vaddr(tb);

	(void)id;
	if (!block)
		abort();
	block->instructions = qemu_plugin_tb_n_insns(tb);
	block->symbol = symbol_of(address);
	block->kind = kind_of(block->symbol, address);
	block->user = !(address >> 63);
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static int by_instructions(const void *a, const void *b)
{
	uint64_t x = ((const struct symbol *)a)->instructions, y = ((const struct symbol *)b)->instructions;

	return (x < y) - (x > y);
}

static void ended(uint64_t id, void *data)
{
	(void)id, (void)data;
	print_call();
	qsort(symbols, symbol_count, sizeof(*symbols), by_instructions);
	fprintf(out, "\n%10s  function\n", "itself");
	for (size_t i = 0; i < symbol_count && symbols[i].instructions; i++)
		fprintf(out, "%10lu  %s\n", symbols[i].instructions, symbols[i].name);
	fclose(out);
}

static bool read_symbols(const char *path)
{
	FILE *file = path ? fopen(path, "r") : NULL;
	char line[1024];
	size_t room = 0;

	while (file && fgets(line, sizeof(line), file)) {
		struct symbol symbol = { 0 };
		char type;

		if (sscanf(line, "%lx %c %95[^\t\n]", &symbol.address, &type, symbol.name) != 3 ||
		    !strchr("tTwW", type))
			continue;
		if (symbol_count == room) {
			room = room ? 2 * room : 1 << 16;
			symbols = realloc(symbols, room * sizeof(*symbols));
			if (!symbols)
				abort();
		}
		symbols[symbol_count++] = symbol;
	}
	if (file)
		fclose(file);
	return symbol_count;
}

PUBLIC int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info, (void)argc, (void)argv;
	out = getenv("PROFILE") ? fopen(getenv("PROFILE"), "w") : NULL;
	if (!out || !read_symbols(getenv("SYMBOLS"))) {
		fputs("profile: cannot read SYMBOLS or write PROFILE\n", stderr);
		return 1;
	}
	fprintf(out, "%10s %9s %9s %4s  %s\n", "from", "all", "user", "pf", "system call");
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
