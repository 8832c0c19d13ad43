/* A small password generator, in place of pwgen. GPL-2.0-or-later, part of headnode. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char consonants[] = "bcdfghjklmnprstvwxz";
static const char vowels[] = "aeiou";

/* A number below `limit`, each as likely as the next. */
static unsigned below(unsigned limit)
{
	unsigned char byte;

	do {
		if (getrandom(&byte, 1, 0) != 1)
			exit(1);
	} while (byte >= 256 - 256 % limit);
	return byte % limit;
}

int main(int argc, char **argv)
{
	int length = 8;

	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return puts("pwgen (stand-in) " VERSION) < 0;
	if (argc > 1 && atoi(argv[1]) > 0)
		length = atoi(argv[1]);
	for (int i = 0; i < length; i++)
		putchar(i % 2 ? vowels[below(5)] : consonants[below(19)]);
	putchar('\n');
	return 0;
}
