/* conf_manual: sluice.conf(5) as man(7) source, from the schema. */
#include "common/conf/conf.h"
#include "common/conf/conf_schema.h"

#define LINE_MAX_BYTES 70

/* One byte of text: a backslash is no escape, a hyphen is one to type. */
static size_t
put_byte(struct buf *out, unsigned char c)
{
	if (c == '\\')
		buf_puts(out, "\\e");
	else if (c == '-')
		buf_puts(out, "\\-");
	else if (c == 0xc3) /* the multiplication sign, the only one that is not ASCII */
		buf_putc(out, 'x');
	else if (c < 0x80)
		buf_putc(out, (char)c);
	return c == '\\' || c == '-' ? 2 : 1;
}

/* Text in lines that are not too long; a leading dot or quote is no request. */
static void
put_text(struct buf *out, const char *s)
{
	size_t column = 0;

	for (; *s != '\0'; s++) {
		if (*s == ' ' && column + strcspn(s + 1, " ") * 2 > LINE_MAX_BYTES) {
			buf_putc(out, '\n');
			column = 0;
			continue;
		}
		if (column == 0 && (*s == '.' || *s == '\''))
			buf_puts(out, "\\&");
		column += put_byte(out, (unsigned char)*s);
	}
}

/* "a|b|c" as a, b, c; a range as it is. */
static void
add_choices(struct buf *text, const char *arg)
{
	buf_puts(text, ": ");
	for (; *arg != '\0'; arg++) {
		if (*arg == '|')
			buf_puts(text, ", ");
		else
			buf_putc(text, *arg);
	}
}

static void
put_row(struct buf *out, const struct conf_directive *d)
{
	struct buf text = { 0 };

	buf_puts(out, ".TP\n.B ");
	put_text(out, d->name);
	buf_puts(out, "\n");
	put_text(out, d->help);
	buf_puts(out, ".\n.br\n");
	buf_puts(&text, conf_schema_type_title(d->type));
	if (d->type == CONF_TYPE_ENUM || d->type == CONF_TYPE_WORDS ||
	    d->type == CONF_TYPE_BOOL_OR || strstr(d->arg, "..") != NULL)
		add_choices(&text, d->arg);
	if (d->def != NULL && strcmp(d->def, CONF_REQUIRED) == 0)
		buf_puts(&text, "; required");
	else if (d->def != NULL)
		buf_printf(&text, "; default %s", d->def);
	if (d->restart)
		buf_puts(&text, "; a change needs a restart");
	if (!d->built)
		buf_puts(&text, "; not supported yet");
	buf_puts(&text, ".");
	buf_putc(&text, '\0');
	put_text(out, buf_slice(&text).p);
	buf_puts(out, "\n");
	buf_clear(&text);
}

static void
put_scope(struct buf *out, enum conf_scope_id id)
{
	const struct conf_scope *s = conf_schema_scope(id);

	buf_puts(out, ".SS ");
	put_text(out, id == CONF_SCOPE_GLOBAL ? "Global" : s->title);
	buf_puts(out, "\n");
	if (s->list[0] != '\0') {
		buf_puts(out, "Elements of\n.BR ");
		put_text(out, s->list);
		buf_puts(out, " .\n");
	}
	for (size_t i = 0; i < s->n_rows; i++)
		put_row(out, &s->rows[i]);
}

static void
put_types(struct buf *out)
{
	for (int t = 0; t < CONF_TYPES; t++) {
		buf_puts(out, ".TP\n.B ");
		put_text(out, conf_schema_type_title((enum conf_type)t));
		buf_puts(out, "\n");
		put_text(out, conf_schema_type_hint((enum conf_type)t));
		buf_puts(out, "\n");
	}
}

// clang-format off
static const char head[] =
".TH SLUICE.CONF 5 \"2026-11-21\" \"Sluice " SLUICE_VERSION "\"\n"
".SH NAME\n"
"sluice.conf \\- configuration of the Sluice mail transfer agent\n"
".SH DESCRIPTION\n"
"The file is read by libconfig: settings\n"
".IR \"name = value;\" ,\n"
"strings in double quotes, arrays in brackets, groups in braces, lists of\n"
"groups in parentheses.\n"
"Names are those of PowerMTA, with an underscore for a dot.\n"
"Its blocks are lists of groups, such as\n"
".IR \"domains = ( { name = \\(dqa.b\\(dq; max\\-smtp\\-out = 5; } );\"\n"
".PP\n"
".I include\n"
"names further files; each is parsed by itself.\n"
"Lists of all files are joined in order, other global settings may stand once.\n"
"Blocks of one name are merged; the later value wins, with a warning.\n"
".PP\n"
"For each setting of a queue the virtual MTA beats its pool, and the pool the\n"
"global domains.\n"
"Inside one of these a name beats the pattern [*.]name, this beats *.name,\n"
"the longest first, and that beats *; a name that is written out beats one\n"
"from a macro.\n"
".PP\n"
"An integer without a unit is never a quantity: rates, times and sizes are\n"
"strings.\n"
".SH VALUES\n";

static const char tail[] =
".SH SEE ALSO\n"
".I sluiced \\-\\-help ,\n"
".I sluice \\-\\-help ,\n"
"and the operator's manual, manual.md beside the README.\n";
// clang-format on

void
conf_print_manual(struct buf *out)
{
	buf_puts(out, head);
	put_types(out);
	buf_puts(out, ".SH DIRECTIVES\n");
	for (int i = 0; i < CONF_SCOPES; i++)
		put_scope(out, (enum conf_scope_id)i);
	buf_puts(out, tail);
}
