"""The facts of the closed world, as plain tables. Everything here is common knowledge or made up."""

from __future__ import annotations

# country: (capital, continent)
COUNTRIES: dict[str, tuple[str, str]] = {
    "France": ("Paris", "Europe"),
    "Italy": ("Rome", "Europe"),
    "Spain": ("Madrid", "Europe"),
    "Germany": ("Berlin", "Europe"),
    "Poland": ("Warsaw", "Europe"),
    "Portugal": ("Lisbon", "Europe"),
    "Greece": ("Athens", "Europe"),
    "Norway": ("Oslo", "Europe"),
    "Sweden": ("Stockholm", "Europe"),
    "Finland": ("Helsinki", "Europe"),
    "Denmark": ("Copenhagen", "Europe"),
    "Austria": ("Vienna", "Europe"),
    "Hungary": ("Budapest", "Europe"),
    "Ireland": ("Dublin", "Europe"),
    "Belgium": ("Brussels", "Europe"),
    "Croatia": ("Zagreb", "Europe"),
    "Iceland": ("Reykjavik", "Europe"),
    "Romania": ("Bucharest", "Europe"),
    "Serbia": ("Belgrade", "Europe"),
    "Latvia": ("Riga", "Europe"),
    "Japan": ("Tokyo", "Asia"),
    "China": ("Beijing", "Asia"),
    "India": ("New Delhi", "Asia"),
    "Thailand": ("Bangkok", "Asia"),
    "Vietnam": ("Hanoi", "Asia"),
    "Nepal": ("Kathmandu", "Asia"),
    "Mongolia": ("Ulaanbaatar", "Asia"),
    "Indonesia": ("Jakarta", "Asia"),
    "Iran": ("Tehran", "Asia"),
    "Iraq": ("Baghdad", "Asia"),
    "Jordan": ("Amman", "Asia"),
    "South Korea": ("Seoul", "Asia"),
    "Egypt": ("Cairo", "Africa"),
    "Kenya": ("Nairobi", "Africa"),
    "Ghana": ("Accra", "Africa"),
    "Morocco": ("Rabat", "Africa"),
    "Tunisia": ("Tunis", "Africa"),
    "Senegal": ("Dakar", "Africa"),
    "Uganda": ("Kampala", "Africa"),
    "Angola": ("Luanda", "Africa"),
    "Nigeria": ("Abuja", "Africa"),
    "Ethiopia": ("Addis Ababa", "Africa"),
    "Canada": ("Ottawa", "North America"),
    "Mexico": ("Mexico City", "North America"),
    "Cuba": ("Havana", "North America"),
    "Panama": ("Panama City", "North America"),
    "Jamaica": ("Kingston", "North America"),
    "Brazil": ("Brasilia", "South America"),
    "Peru": ("Lima", "South America"),
    "Chile": ("Santiago", "South America"),
    "Argentina": ("Buenos Aires", "South America"),
    "Colombia": ("Bogota", "South America"),
    "Ecuador": ("Quito", "South America"),
    "Uruguay": ("Montevideo", "South America"),
    "Australia": ("Canberra", "Oceania"),
    "New Zealand": ("Wellington", "Oceania"),
}

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("high", "low"), ("young", "old"),
    ("rich", "poor"), ("early", "late"), ("full", "empty"), ("hard", "soft"), ("light", "heavy"),
    ("happy", "sad"), ("wet", "dry"), ("loud", "quiet"), ("near", "far"), ("open", "closed"),
    ("strong", "weak"), ("thick", "thin"), ("wide", "narrow"), ("clean", "dirty"), ("sweet", "sour"),
    ("long", "short"), ("deep", "shallow"), ("smooth", "rough"), ("brave", "afraid"), ("true", "false"),
    ("left", "right"), ("up", "down"), ("day", "night"), ("summer", "winter"), ("north", "south"),
)  # fmt: skip

COLOURS: dict[str, str] = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow",
    "a tomato": "red", "a carrot": "orange", "milk": "white", "a frog": "green", "the sea": "blue",
    "a strawberry": "red", "an elephant": "grey", "chocolate": "brown", "a banana": "yellow",
    "a plum": "purple", "a crow": "black", "a flamingo": "pink", "a pumpkin": "orange",
    "a cucumber": "green", "sand": "yellow",
}  # fmt: skip

# animal: (sound, young, legs)
ANIMALS: dict[str, tuple[str, str, int]] = {
    "dog": ("barks", "puppy", 4),
    "cat": ("meows", "kitten", 4),
    "cow": ("moos", "calf", 4),
    "sheep": ("bleats", "lamb", 4),
    "horse": ("neighs", "foal", 4),
    "lion": ("roars", "cub", 4),
    "duck": ("quacks", "duckling", 2),
    "hen": ("clucks", "chick", 2),
    "pig": ("grunts", "piglet", 4),
    "owl": ("hoots", "owlet", 2),
    "frog": ("croaks", "tadpole", 4),
    "goat": ("bleats", "kid", 4),
    "wolf": ("howls", "pup", 4),
    "goose": ("honks", "gosling", 2),
}

DAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS: dict[str, int] = {
    "January": 31, "February": 28, "March": 31, "April": 30, "May": 31, "June": 30, "July": 31,
    "August": 31, "September": 30, "October": 31, "November": 30, "December": 31,
}  # fmt: skip

ORDINALS: tuple[str, ...] = (
    "first", "second", "third", "fourth", "fifth", "sixth",
    "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip

NAMES: tuple[str, ...] = (
    "Ann", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack",
    "Kate", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor",
)  # fmt: skip

GOODS: tuple[str, ...] = (
    "apples", "pears", "books", "pens", "cups", "coins", "eggs", "boxes", "lamps", "keys",
    "chairs", "stones", "shells", "hats", "bells", "plates",
)  # fmt: skip

WORDS: tuple[str, ...] = (
    "apple", "river", "stone", "cloud", "bread", "chair", "green", "house", "light", "mouse",
    "night", "ocean", "paper", "queen", "radio", "sugar", "table", "uncle", "voice", "water",
    "bird", "cake", "desk", "fish", "gold", "hill", "king", "lake", "moon", "nest",
    "rain", "ship", "tree", "wind", "wolf", "star", "road", "leaf", "door", "book",
)  # fmt: skip

# Questions that this model cannot answer: it says so instead of guessing.
UNKNOWABLE: tuple[str, ...] = (
    "What is the weather in {city}?",
    "Will it rain in {city} today?",
    "How warm is it in {city} right now?",
    "What time is it in {city}?",
    "Where is my order {code}?",
    "Can you track order {code}?",
    "How much is the {product}?",
    "What is the price of the {product}?",
    "Is the {product} in stock?",
    "How heavy is the {product}?",
    "Do you have a {product} in blue?",
    "What is {name}'s phone number?",
    "Where does {name} live?",
    "Who won the game in {city}?",
    "How do I return my {product}?",
    "Please remind {name} to call me.",
    "Convert {number} dollars to euros.",
)

PRODUCT_WORDS: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("Magic", "Mega", "Super", "Ultra", "Smart", "Royal", "Tiny", "Quick", "Golden", "Star", "Iron", "Easy"),
    ("Mop", "Toaster", "Bike", "Phone", "Pan", "Watch", "Sofa", "Clock", "Heater", "Mixer", "Tent", "Robot"),
)
