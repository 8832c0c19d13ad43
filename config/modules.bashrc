# Written by headnode: changes here are lost. The builder's, where the class has a kernel.
# Refuses a kernel module that the kernel in whose folder it lies would not load, whatever eclass
# its package is made by. Those of Linux 2.4 are called .o, and have a kernel_version.
post_src_install() {
	local folder module release found wrong
	for folder in "${ED%/}"/{,usr/}lib/modules/*; do
		[[ -d ${folder} ]] || continue
		release=${folder##*/} wrong=()
		while IFS= read -r -d '' module; do
			if [[ ${module} == *.o ]]; then
				found=$(tr '\0' '\n' < "${module}" | sed -n 's/^kernel_version=//p;T;q')
			else
				found=$(modinfo -F vermagic "${module}") || die "modinfo cannot read ${module}"
			fi
			[[ ${found%% *} == "${release}" ]] || wrong+=( "${module##*/} (${found%% *})" )
		done < <(find "${folder}" -type f '(' -name '*.ko*' -o -name '*.o' ')' -print0)
		[[ ${#wrong[@]} -eq 0 ]] || die "Modules of another kernel than ${release}: ${wrong[*]}"
	done
}
