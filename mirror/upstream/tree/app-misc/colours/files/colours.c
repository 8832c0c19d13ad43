/* Show the colours that were built in. GPL-2.0-or-later, part of headnode. */
#include <stdio.h>
#include <string.h>

#ifdef USE_ANSI
#define ANSI "+ansi"
#else
#define ANSI "-ansi"
#endif
#ifdef USE_TRUECOLOUR
#define TRUECOLOUR "+truecolour"
#else
#define TRUECOLOUR "-truecolour"
#endif

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return puts("colours " VERSION " " ANSI " " TRUECOLOUR) < 0;
#ifdef USE_ANSI
	for (int colour = 0; colour < 16; colour++)
		printf("\033[48;5;%dm  ", colour);
	puts("\033[0m");
#endif
#ifdef USE_TRUECOLOUR
	for (int step = 0; step < 64; step++)
		printf("\033[48;2;%d;0;%dm ", 4 * step, 255 - 4 * step);
	puts("\033[0m");
#endif
	return 0;
}
