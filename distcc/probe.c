/* What every helper is asked to compile before a build: loops that a compiler turns into other
 * instructions for other CPUs and in other versions, and headers that stand in real sources. */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sample {
	double value;
	uint64_t bits;
	char name[32];
};

double sum_of_squares(const double *values, size_t count)
{
	double sum = 0.0;
	for (size_t at = 0; at < count; at++)
		sum += values[at] * values[at];
	return sqrt(sum);
}

unsigned bits_set(const uint64_t *words, size_t count)
{
	unsigned found = 0;
	for (size_t at = 0; at < count; at++)
		found += (unsigned)__builtin_popcountll(words[at]);
	return found;
}

int compare_samples(const void *left, const void *right)
{
	const struct sample *one = (const struct sample *)left;
	const struct sample *other = (const struct sample *)right;
	if (one->value != other->value)
		return one->value < other->value ? -1 : 1;
	return strncmp(one->name, other->name, sizeof(one->name));
}

int print_samples(FILE *out, struct sample *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), compare_samples);
	for (size_t at = 0; at < count; at++)
		if (fprintf(out, "%s %.17g %llx\n", samples[at].name, samples[at].value,
			    (unsigned long long)samples[at].bits) < 0)
			return errno;
	return 0;
}
