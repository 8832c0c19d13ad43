/* Print the identity that pkg_postinst gave this node. GPL-2.0-or-later, part of headnode. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	char identity[64];
	FILE *file;

	if (argc > 1 && strcmp(argv[1], "--version") == 0)
		return puts("nodekeys " VERSION) < 0;
	file = fopen(STATE "/id", "r");
	if (file == NULL || fgets(identity, sizeof identity, file) == NULL) {
		fputs("nodekeys: this node has no identity yet\n", stderr);
		return 1;
	}
	fputs(identity, stdout);
	return fclose(file) != 0;
}
