/* Print the greeting of a blade, as its configuration has it. GPL-2.0-or-later, part of headnode. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	char line[1024];
	FILE *config;

	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return puts("motd-blade " VERSION) < 0;
	config = fopen(CONFIG, "r");
	if (config == NULL) {
		perror(CONFIG);
		return 1;
	}
	while (fgets(line, sizeof line, config))
		if (line[0] != '#')
			fputs(line, stdout);
	return fclose(config) != 0;
}
