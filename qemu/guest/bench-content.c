/*
 * Runs on the host: writes the files of the layer that qemu/bench boots, the same bytes each
 * time, and prints their names.
 *
 *   bench-content DIR MEBIBYTES
 *
 * They resemble a minimal Debian 13 with systemd: 31 KB a file on average, half of them below
 * 2.2 KB, a tenth above 49 KB, six in a directory. lz4 compresses them by a factor of about 2.0,
 * gzip by 2.7 and zstd by 3.1.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LARGEST (8 << 20)
#define SPREAD 2.1   /* of sizes: each of ten tosses makes a file larger or smaller by this factor */
#define LITERALS 10  /* maximum bytes between two repetitions */
#define REPEAT 40    /* maximum bytes of a repetition */
#define DISTANCE 4096 /* maximum distance of a repetition */
#define NOISE 15     /* percent of the files that are incompressible */

static unsigned char data[LARGEST];

/* xorshift64* */
static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t random_number(uint64_t below)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 0x2545f4914f6cdd1d >> 20) % below;
}

/* A size whose logarithm has a binomial distribution: each of ten tosses makes it larger or smaller. */
static size_t random_size(void)
{
	double size = 2208;
	int toss;

	for (toss = 0; toss < 10; toss++)
		size *= random_number(2) ? SPREAD : 1 / SPREAD;
	size *= 0.5 + random_number(1000) / 1000.0;
	return size < 1 ? 1 : size > LARGEST ? LARGEST : (size_t)size;
}

/* A byte of a compressible file: few values are frequent, as in text and in machine code. */
static unsigned char literal(void)
{
	return 32 + random_number(1 + random_number(1 + random_number(96)));
}

/* Fills the buffer with data for an LZ compressor: up to LITERALS bytes, then a repetition. */
static void fill(size_t size, int kind)
{
	size_t at = 0, length, distance;

	while (at < size) {
		for (length = 1 + random_number(LITERALS); length && at < size; length--)
			data[at++] = kind ? literal() : random_number(256);
		if (at < 64 || !kind)
			continue;
		distance = 1 + random_number(1 + random_number(at < DISTANCE ? at : DISTANCE));
		for (length = 4 + random_number(REPEAT); length && at < size; length--, at++)
			data[at] = data[at - distance];
	}
}

static void fail(const char *name)
{
	fprintf(stderr, "bench-content: %s: %s\n", name, strerror(errno));
	exit(1);
}

int main(int argc, char **argv)
{
	long long left = argc == 3 ? atoll(argv[2]) << 20 : 0;
	char path[4096];
	int number;

	if (left <= 0) {
		fprintf(stderr, "usage: bench-content DIR MEBIBYTES\n");
		return 2;
	}
	for (number = 0; left > 0; number++) {
		size_t size = random_size();
		FILE *file;

		if ((long long)size > left)
			size = left;
		left -= size;
		fill(size, random_number(100) >= NOISE);
		if (number % 6 == 0) {
			if (number % 216 == 0) {
				snprintf(path, sizeof(path), "%s/%d", argv[1], number / 216);
				if (mkdir(path, 0755))
					fail(path);
			}
			snprintf(path, sizeof(path), "%s/%d/%d", argv[1], number / 216, number % 216 / 6);
			if (mkdir(path, 0755))
				fail(path);
		}
		snprintf(path, sizeof(path), "%s/%d/%d/%d", argv[1], number / 216, number % 216 / 6, number);
		file = fopen(path, "w");
		if (!file || fwrite(data, 1, size, file) != size || fclose(file))
			fail(path);
		puts(path + strlen(argv[1]) + 1);
	}
	return 0;
}
