"""The words for what is on a page, in English, German and French."""

from .documents import ACTIONS, COLOURS, MARKS, PLACES, THINGS

# Each language's nouns with their articles. Where a case or a gender changes a word, the form is the one that the
# templates below need: German marks and subjects follow "mit", French adjectives agree with their noun.
TYPE_NAMES = {
    "en": {
        "letter": ("a letter", "a written letter"),
        "invoice": ("an invoice", "a bill"),
        "receipt": ("a receipt", "a till receipt"),
        "form": ("a form", "a questionnaire"),
        "table": ("a table", "a spreadsheet"),
        "bar chart": ("a bar chart", "a column chart"),
        "line chart": ("a line chart", "a line graph"),
        "pie chart": ("a pie chart", "a pie diagram"),
        "code listing": ("a code listing", "a program"),
        "slide": ("a slide", "a presentation slide"),
        "poster": ("a poster", "a placard"),
        "map": ("a map", "a city map"),
        "floor plan": ("a floor plan", "an apartment plan"),
        "photograph": ("a photograph", "a photo"),
    },
    "de": {
        "letter": ("ein Brief", "ein Schreiben"),
        "invoice": ("eine Rechnung",),
        "receipt": ("ein Kassenbon", "eine Quittung"),
        "form": ("ein Formular", "ein Fragebogen"),
        "table": ("eine Tabelle",),
        "bar chart": ("ein Balkendiagramm", "ein Säulendiagramm"),
        "line chart": ("ein Liniendiagramm",),
        "pie chart": ("ein Kreisdiagramm", "ein Tortendiagramm"),
        "code listing": ("ein Listing", "ein Programm"),
        "slide": ("eine Folie",),
        "poster": ("ein Plakat",),
        "map": ("eine Karte", "ein Stadtplan"),
        "floor plan": ("ein Grundriss",),
        "photograph": ("ein Foto", "eine Fotografie"),
    },
    "fr": {
        "letter": ("une lettre", "un courrier"),
        "invoice": ("une facture",),
        "receipt": ("un ticket de caisse", "un reçu"),
        "form": ("un formulaire", "un questionnaire"),
        "table": ("un tableau",),
        "bar chart": ("un diagramme en barres",),
        "line chart": ("un graphique en courbes",),
        "pie chart": ("un camembert", "un diagramme circulaire"),
        "code listing": ("un listing de code", "un programme"),
        "slide": ("une diapositive",),
        "poster": ("une affiche",),
        "map": ("une carte", "un plan de ville"),
        "floor plan": ("un plan d'appartement",),
        "photograph": ("une photographie", "une photo"),
    },
}
PAGE_NAMES = {"en": ("a page", "a document"), "de": ("eine Seite", "ein Dokument"), "fr": ("une page", "un document")}

# What a type looks like, for those who do not know its name.
DESCRIPTIONS = {
    "letter": "a page of flowing text that greets someone and is addressed to a person",
    "invoice": "a bill that lists goods with prices and a total amount to pay",
    "receipt": "a narrow strip of paper from a shop with prices",
    "form": "a page with boxes and fields to fill in by hand",
    "table": "rows and columns of numbers in a grid",
    "bar chart": "upright bars of different heights on an axis",
    "line chart": "curves that rise and fall over an axis",
    "pie chart": "a round disc cut into slices",
    "code listing": "lines of source code in a programming language",
    "slide": "a wide page with a few bullet points for a talk",
    "poster": "a large simple shape with few words to hang on a wall",
    "map": "streets seen from above with a route and water",
    "floor plan": "the walls and rooms of a flat drawn from above",
    "photograph": "a natural scene outdoors with a sky",
}

COLOUR_ADJECTIVES = {
    "de": dict(zip(COLOURS, ("roten", "blauen", "grünen", "orangen", "violetten", "schwarzen"), strict=True)),
    "fr": dict(
        zip(
            COLOURS,
            (
                ("rouge",) * 2,
                ("bleu", "bleue"),
                ("vert", "verte"),
                ("orange",) * 2,
                ("violet", "violette"),
                ("noir", "noire"),
            ),
            strict=True,
        )
    ),
}
IN_COLOUR = {
    "en": {colour: f"in {colour}" for colour in COLOURS},
    "de": dict(zip(COLOURS, ("in Rot", "in Blau", "in Grün", "in Orange", "in Violett", "in Schwarz"), strict=True)),
    "fr": {colour: f"en {masculine}" for colour, (masculine, _) in COLOUR_ADJECTIVES["fr"].items()},
}

NOUNS = {
    "en": dict(
        zip(MARKS, ("a stamp", "a signature", "a barcode", "a QR code", "a star", "an arrow", "a logo"), strict=True),
        house="a house",
        tree="a tree",
        boat="a boat",
        car="a car",
        circle="a circle",
        triangle="a triangle",
        square="a square",
        heart="a heart",
        river="a river",
        lake="a lake",
    ),
    "de": dict(
        zip(
            MARKS,
            (
                "einem Stempel",
                "einer Unterschrift",
                "einem Strichcode",
                "einem QR-Code",
                "einem Stern",
                "einem Pfeil",
                "einem Logo",
            ),
            strict=True,
        ),
        house="einem Haus",
        tree="einem Baum",
        boat="einem Boot",
        car="einem Auto",
        circle="einem Kreis",
        triangle="einem Dreieck",
        square="einem Quadrat",
        heart="einem Herz",
        river="einem Fluss",
        lake="einem See",
    ),
    "fr": dict(
        zip(
            MARKS,
            ("un tampon", "une signature", "un code-barres", "un code QR", "une étoile", "une flèche", "un logo"),
            strict=True,
        ),
        house="une maison",
        tree="un arbre",
        boat="un bateau",
        car="une voiture",
        circle="un cercle",
        triangle="un triangle",
        square="un carré",
        heart="un cœur",
        river="une rivière",
        lake="un lac",
    ),
}

PLACE_PHRASES = {
    "en": {place: f"at the {place}" for place in PLACES},
    "de": dict(zip(PLACES, ("oben links", "oben rechts", "unten links", "unten rechts"), strict=True)),
    "fr": dict(
        zip(PLACES, ("en haut à gauche", "en haut à droite", "en bas à gauche", "en bas à droite"), strict=True)
    ),
}

NUMBERS = {
    "en": ("", "one", "two", "three", "four", "five"),
    "de": ("", "einer", "zwei", "drei", "vier", "fünf"),
    "fr": ("", "une", "deux", "trois", "quatre", "cinq"),
}
COUNTED = {
    "en": {name: name for name in ("columns", "bars", "lines", "slices", "bullets", "rooms")},
    "de": {
        "columns": "Spalten",
        "bars": "Balken",
        "lines": "Linien",
        "slices": "Stücken",
        "bullets": "Punkten",
        "rooms": "Zimmern",
    },
    "fr": {
        "columns": "colonnes",
        "bars": "barres",
        "lines": "courbes",
        "slices": "parts",
        "bullets": "puces",
        "rooms": "pièces",
    },
}

TIME_PHRASES = {
    "en": {"day": "by day", "night": "at night", "sunset": "at sunset"},
    "de": {"day": "bei Tag", "night": "bei Nacht", "sunset": "bei Sonnenuntergang"},
    "fr": {"day": "de jour", "night": "de nuit", "sunset": "au coucher du soleil"},
}
ACTION_VERBS = {
    "en": dict(
        zip(ACTIONS, ("sums", "counts", "prints", "sorts", "filters", "reverses", "finds", "copies"), strict=True)
    ),
    "de": dict(
        zip(
            ACTIONS,
            ("summiert", "zählt", "druckt", "sortiert", "filtert", "umkehrt", "findet", "kopiert"),
            strict=True,
        )
    ),
    "fr": dict(
        zip(
            ACTIONS,
            ("additionne", "compte", "affiche", "trie", "filtre", "inverse", "trouve", "copie"),
            strict=True,
        )
    ),
}
THING_NAMES = {
    "en": {things: things for things in THINGS},
    "de": dict(
        zip(
            THINGS,
            ("Zahlen", "Wörter", "Dateien", "Nutzer", "Bestellungen", "Preise", "Daten", "Knoten"),
            strict=True,
        )
    ),
    "fr": dict(
        zip(
            THINGS,
            ("nombres", "mots", "fichiers", "clients", "commandes", "prix", "dates", "nœuds"),
            strict=True,
        )
    ),
}

STYLE_PHRASES = {
    "en": {"loop": "with a loop", "short": "without a loop"},
    "de": {"loop": "mit einer Schleife", "short": "ohne Schleife"},
    "fr": {"loop": "avec une boucle", "short": "sans boucle"},
}

HEADED = {
    "en": ("headed {}", "titled {}", 'with the headline "{}"'),
    "de": ("mit der Überschrift {}", 'mit dem Titel "{}"'),
    "fr": ("avec le titre {}", 'sous le titre "{}"'),
}
WITH = {"en": ("with", "and"), "de": ("mit", "und"), "fr": ("avec", "et")}

REQUESTS = {
    "en": ("{}", "{}", "{}", "find {}", "show me {}", "an image of {}", "the page is {}", "I am looking for {}"),
    "de": ("{}", "{}", "gesucht: {}", "Was zeigt das Bild? {}"),
    "fr": ("{}", "{}", "je cherche {}", "montre-moi {}"),
}
CLASS_PROMPTS = (
    "{}",
    "{}",
    "{}",
    "An image of: {}",
    "An image of {}",
    "A scanned {}",
    "A photo of a {}",
    "This is a {}",
    "A page of the type {}",
)
LONG_CLASS_PROMPTS = ("{}", "{}", "An image of: {}", "An image of {}", "This is {}")
