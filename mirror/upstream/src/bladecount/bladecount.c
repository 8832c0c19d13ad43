/* Count the blades of a node set. GPL-2.0-or-later, part of headnode. */
#include <blade.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	long count;

	if (argc != 2) {
		fputs("usage: bladecount 'blade[01-58]'\n", stderr);
		return 2;
	}
	if (strcmp(argv[1], "--version") == 0)
		return printf("bladecount %s, libblade %s, ABI %d\n", VERSION, blade_version(),
			      BLADE_ABI) < 0;
	count = blade_count(argv[1]);
	if (count < 0) {
		fprintf(stderr, "bladecount: %s is no node set\n", argv[1]);
		return 1;
	}
	return printf("%ld\n", count) < 0;
}
