// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Enables fs-verity with its defaults for each file that is named, as `fsverity enable` does. Debian has that only as a
 * dynamic program.
 */
#include <fcntl.h>
#include <linux/fsverity.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct fsverity_enable_arg argument = {
		.version = 1,
		.hash_algorithm = FS_VERITY_HASH_ALG_SHA256,
		.block_size = 4096,
	};
	int i;

	for (i = 1; i < argc; i++) {
		int file = open(argv[i], O_RDONLY);

		if (file < 0 || ioctl(file, FS_IOC_ENABLE_VERITY, &argument) < 0) {
			perror(argv[i]);
			return 1;
		}
		close(file);
	}
	sync();
	puts("fs-verity is enabled");
	return 0;
}
