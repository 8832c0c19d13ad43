/* libblade. GPL-2.0-or-later, part of headnode. */
#include "blade.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *blade_version(void)
{
	return VERSION;
}

int blade_look(struct blade *blade)
{
	memset(blade, 0, sizeof *blade);
	if (gethostname(blade->name, sizeof blade->name - 1) != 0)
		return -1;
	blade->cpus = sysconf(_SC_NPROCESSORS_ONLN);
#if BLADE_ABI >= 2
	blade->memory_mib = sysconf(_SC_PHYS_PAGES) / 1024 * sysconf(_SC_PAGESIZE) / 1024;
#endif
	return blade->cpus < 1 ? -1 : 0;
}

long blade_count(const char *nodes)
{
	const char *range = strchr(nodes, '[');
	long first, last;
	char end;

	if (range == NULL)
		return *nodes ? 1 : -1;
	if (sscanf(range, "[%ld-%ld%c", &first, &last, &end) != 3 || end != ']' || last < first)
		return -1;
	return last - first + 1;
}
