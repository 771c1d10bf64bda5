// SPDX-License-Identifier: MIT OR Apache-2.0
/* A program of 20 MB that touches all of its pages: qemu/kernel/figures executes it. */
static const char content[20 << 20] = { 1 };

int main(void)
{
	int sum = 0;

	for (unsigned int at = 0; at < sizeof(content); at += 4096)
		sum += ((const volatile char *)content)[at];
	return sum != 1;
}
