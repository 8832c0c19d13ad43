/* Print what this blade is. GPL-2.0-or-later, part of headnode. */
#include <blade.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	struct blade blade;

	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return printf("bladeinfo %s, libblade %s, ABI %d\n", VERSION, blade_version(),
			      BLADE_ABI) < 0;
	if (blade_look(&blade) != 0) {
		perror("bladeinfo");
		return 1;
	}
	printf("%s: %ld processors\n", blade.name, blade.cpus);
#if BLADE_ABI >= 2
	printf("%s: %ld MiB\n", blade.name, blade.memory_mib);
#endif
	return 0;
}
