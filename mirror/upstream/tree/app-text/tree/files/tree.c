/* A small lister of directories, in place of tree. GPL-2.0-or-later, part of headnode. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int shown(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void show(const char *folder, int depth)
{
	struct dirent **names;
	int count = scandir(folder, &names, shown, alphasort);

	for (int i = 0; i < count; i++) {
		char path[4096];
		struct stat status;

		printf("%*s%s\n", depth * 4, "", names[i]->d_name);
		snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
		if (lstat(path, &status) == 0 && S_ISDIR(status.st_mode))
			show(path, depth + 1);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
}

int main(int argc, char **argv)
{
	const char *folder = argc > 1 ? argv[1] : ".";

	if (strcmp(folder, "--version") == 0)
		return puts("tree (stand-in) v" VERSION) < 0;
	puts(folder);
	show(folder, 1);
	return 0;
}
