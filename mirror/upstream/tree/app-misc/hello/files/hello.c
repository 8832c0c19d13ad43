/* A greeting, in place of GNU hello. GPL-2.0-or-later, part of headnode. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return puts("hello (stand-in) " VERSION) < 0;
	return puts("Hello, world!") < 0;
}
